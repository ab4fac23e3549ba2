# The image of Luigi Spanner. `make image` builds it, docs/containers.md says how to run it.
# Where the base must not move give it a digest: --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY tests/constraints.txt tests/
COPY migrations migrations
COPY scheduler scheduler
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /wheels .

# pip works from outside, so that the environment has none. Bytecode does not look at the sources' times, which a copy may change.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/luigi-spanner \
    && python -m pip --python /opt/luigi-spanner install --no-compile --only-binary :all: --constraint tests/constraints.txt "$(echo /wheels/*.whl)[tracing]" \
    && python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/luigi-spanner/lib


FROM ${PYTHON_IMAGE}

# The base has pip, and its standard library comes without bytecode, which a read-only file system could not keep.
RUN python -m pip uninstall --yes --root-user-action ignore pip \
    && rm -r "$(python -c 'import ensurepip; print(*ensurepip.__path__)')" \
    && python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && groupadd --gid 10001 luigi \
    && useradd --uid 10001 --gid luigi --no-log-init --no-create-home --home-dir /var/lib/luigi-spanner --shell /usr/sbin/nologin luigi \
    && install --directory --owner luigi --group luigi --mode 0700 /var/lib/luigi-spanner
COPY --from=build /opt/luigi-spanner /opt/luigi-spanner

# Without --store and without a key of luigi.cfg the store is /var/lib/luigi-spanner/luigi.db. LUIGI_SPANNER_STORE would come before
# a luigi.cfg, which Luigi finds in /etc/luigi by itself.
ENV PATH=/opt/luigi-spanner/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_STATE_HOME=/var/lib
WORKDIR /var/lib/luigi-spanner
VOLUME /var/lib/luigi-spanner
EXPOSE 8082

# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["luigid"]

# Whether the process lives, also while the store is away. Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-S", "-c", "import os, http.client as http; c = http.HTTPConnection('127.0.0.1', int(os.environ.get('LUIGI_SPANNER_PORT', 8082)), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

# Last, since they differ with each build.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="luigi-spanner" \
    org.opencontainers.image.description="A luigid whose task graph lives in Cloud Spanner or SQLite and outlives any of its replicas" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
