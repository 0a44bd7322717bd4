# syntax=docker/dockerfile:1
# Pinned by its digest: --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:... (`make image` looks it up).
ARG PYTHON_IMAGE=python:3.13-slim-trixie

# --- build: uv and whatever a wheel may need to be built with stay in this stage -------------------------------------
FROM ${PYTHON_IMAGE} AS build
# The bytecode is good for the file beside it, whatever the times of the two become on their way through layers.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/consumer \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# Each package by its hash: what builds, from this list; what runs, from the lock file.
COPY deploy/build-requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes --requirement build-requirements.txt
# The dependencies first: this layer is built again only when the lock file changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-editable --extra redis --no-install-project
# .dockerignore lets nothing through but what the package is built from.
COPY . .
RUN hatchling build --target wheel --directory /dist && uv pip install --python /opt/consumer --no-deps /dist/*.whl

# --- run: the interpreter and the installed program, nothing else ----------------------------------------------------
FROM ${PYTHON_IMAGE} AS run
# Nothing is installed at run time. Python's own images come without bytecode, which a read-only root can never keep.
RUN pip uninstall --yes --quiet --root-user-action=ignore pip && \
    python -m compileall -q --invalidation-mode unchecked-hash -x '/(ensurepip|idlelib|lib2to3|site-packages|tests?|tkinter|turtledemo)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
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
# The list form, here and below: nothing goes through a shell, so signals reach the program, which is process 1.
HEALTHCHECK --interval=15s --timeout=5s --start-period=40s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; sidecar = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('API_PORT') or 8000), timeout=4); sidecar.request('GET', '/healthz'); sys.exit(sidecar.getresponse().status != 200)"]
ENTRYPOINT ["consumer"]
CMD ["run"]
# Last, as they change with every build.
ARG PYTHON_IMAGE
ARG CREATED=""
ARG REVISION=""
ARG SOURCE=""
ARG VERSION=""
LABEL org.opencontainers.image.title="cross-cloud-replicator" \
      org.opencontainers.image.description="Replicates objects between S3 and Google Cloud Storage" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
