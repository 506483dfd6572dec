"""An agent backend whose every event can be proven to have arrived.

The stations of an event, in order:

1. `gateway.sockets` takes a signed-in user's `start_run`; `runs.service` makes it durable;
   `engine.execution_engine` admits it and hands it to
2. `engine.user_execution_engine`, which runs the agent (link `engine`) and gives its events to
3. `bridge.agent_websocket_bridge`, which sequences them (link `bridge`) and passes them to
4. `delivery.user_websocket_emitter`, which makes them durable (link `emitter`) and offers them to
5. `delivery.connections`, which writes them (link `socket`) to the client, whose acks (link `client`) come back through
   `gateway.sockets`.

`main` builds it all; `tracewire_telemetry` takes the stamps.
"""
