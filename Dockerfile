# syncd as a container: `make image`, or `docker build .` (BuildKit: DOCKER_BUILDKIT=1 before Docker 23).
# How it is run, and what is mounted where: docs/image.md.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Where an index of one's own is asked: docker build --secret id=pip,src=pip.conf
COPY requirements.lock requirements-image.lock ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv tools && python3 -m venv --without-pip /opt/syncd \
    && tools/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-image.lock \
    && tools/bin/python -m pip --python /opt/syncd/bin/python install --quiet --no-compile \
        --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY syncd syncd
# Byte code is made here: on a read-only file system it could not be made later.
RUN tools/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist . \
    && tools/bin/python -m pip --python /opt/syncd/bin/python install --quiet --no-compile --no-deps --no-index dist/*.whl \
    && tools/bin/python -m pip --python /opt/syncd/bin/python check \
    && rm -f /opt/syncd/bin/[Aa]ctivate* \
    && /opt/syncd/bin/python -m compileall -q /opt/syncd/lib \
    && install -m 755 tools/bin/dumb-init /opt/syncd/bin/

FROM ${PYTHON_IMAGE}
# The base image's own pip is of no use here, and more to keep free of holes. A new volume begins with the store's two
# folders, so that a server which cannot make them finds them, whoever is started first.
RUN groupadd --system --gid 10001 syncd \
    && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin syncd \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip* \
    && install -d -m 755 /etc/syncd /srv/ollama \
    && install -d -m 755 -o syncd -g syncd /srv/ollama/models /srv/ollama/models/blobs /srv/ollama/models/manifests \
    && install -d -m 750 -o syncd -g syncd /run/syncd
COPY --from=build /opt/syncd /opt/syncd
# Settings say otherwise where they name a store.
ENV PATH=/opt/syncd/bin:$PATH OLLAMA_MODELS=/srv/ollama/models PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
VOLUME ["/srv/ollama/models", "/run/syncd"]
# dumb-init is process 1: it hands SIGTERM and SIGHUP to syncd, and takes what health checks may leave.
ENTRYPOINT ["dumb-init", "--single-child", "--", "syncd"]
CMD ["serve"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=30s --retries=3 CMD ["syncd", "status", "--check"]

# Last: they change with every commit. `make image` says them.
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="syncd" \
      org.opencontainers.image.description="Owns the shared model store of a host's Ollama servers." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
