# syntax=docker/dockerfile:1
ARG PYTHON_VERSION=3.13

# --- build: uv and whatever a wheel may need to be built with stay in this stage -------------------------------------
FROM python:${PYTHON_VERSION}-slim AS build
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/consumer \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}
WORKDIR /src
# The dependencies first: this layer is built again only when the lock file changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-editable --extra redis --no-install-project
# .dockerignore lets nothing through but what the package is built from.
COPY . .
RUN uv sync --frozen --no-dev --no-editable --extra redis

# --- run: the interpreter and the installed program, nothing else ----------------------------------------------------
FROM python:${PYTHON_VERSION}-slim AS run
LABEL org.opencontainers.image.title="cross-cloud-replicator" \
      org.opencontainers.image.description="Replicates objects between S3 and Google Cloud Storage" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing is installed at run time.
RUN pip uninstall --yes --quiet --root-user-action=ignore pip
COPY --from=build /opt/consumer /opt/consumer
# Outside a container the sidecar listens on loopback alone; in one, probes and scrapes come from elsewhere.
ENV PATH=/opt/consumer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    API_HOST=0.0.0.0
# By number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=40s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; sidecar = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('API_PORT') or 8000), timeout=4); sidecar.request('GET', '/healthz'); sys.exit(sidecar.getresponse().status != 200)"]
ENTRYPOINT ["consumer"]
CMD ["run"]
