# Tracewire in a container: the pinned dependencies by their hashes, no compiler, no secret, a user of its own.
#
#   docker build -t tracewire:0.1.0 .
#
# It listens on loopback, as everywhere, until settings say otherwise: compose.yaml shows which those are.
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/tracewire \
    && /opt/tracewire/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY telemetry telemetry
RUN /opt/tracewire/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.11.13-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/tracewire tracewire \
    && install -d -o tracewire -g tracewire -m 0700 /var/lib/tracewire
COPY --from=build /opt/tracewire /opt/tracewire
# What compose.yaml runs beside the server: receiver, visitor, gate, and the secrets of a first start.
COPY dashboards/stack /opt/stack/dashboards/stack
ENV PATH=/opt/tracewire/bin:$PATH PYTHONPATH=/opt/stack PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    TRACEWIRE_DATA_DIR=/var/lib/tracewire
USER 10001:10001
WORKDIR /var/lib/tracewire
EXPOSE 8000 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["tracewire"]
CMD ["serve"]
