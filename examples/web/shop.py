"""A small web service in Flask. It knows OpenTelemetry, and nothing of Tracewire."""

from flask import Flask, abort
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.trace import SpanKind

PRICES = {"red": 30, "blue": 25}


def create_app(provider):
    app = Flask("shop")
    tracer = provider.get_tracer("shop")
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)

    @app.get("/kettles/<colour>")
    def kettle(colour):
        with tracer.start_as_current_span("SELECT prices", kind=SpanKind.CLIENT) as query:
            query.set_attribute("db.system.name", "sqlite")
            price = PRICES.get(colour)
        if price is None:
            abort(404)
        with tracer.start_as_current_span("add tax") as tax:
            tax.set_attribute("shop.rate", 0.2)
            return {"colour": colour, "price": round(price * 1.2)}

    return app
