# syntax=docker/dockerfile:1
# docker build -t steerec . ; docker run -p 8080:8080 -v steerec:/var/lib/steerec steerec
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/steerec
ENV PATH=/opt/steerec/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# torch first and alone: any other order may fetch a CUDA build of several gigabytes. Give PyTorch's
# index of builds for the CPU: docker build --build-arg TORCH_INDEX=…
ARG TORCH_INDEX
# Versions stand in constraints.txt.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 \
  && pip install -c constraints.txt ".[offline,postgres,redis]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/steerec --create-home steerec
COPY --from=build /opt/steerec /opt/steerec
ENV PATH=/opt/steerec/bin:$PATH \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1 \
    STEEREC_CACHE_DIR=/var/lib/steerec/cache \
    STEEREC_DATABASE_URL=sqlite:////var/lib/steerec/steerec.db
USER 10001
WORKDIR /var/lib/steerec
VOLUME /var/lib/steerec
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# It speaks HTTPS where the settings name a certificate, which is not one of 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import http.client, ssl, urllib.request as r\nfor way in 'http', 'https':\n    try:\n        r.urlopen(way + '://127.0.0.1:8080/api/health/live', timeout=2, context=ssl._create_unverified_context())\n        raise SystemExit(0)\n    except (OSError, http.client.HTTPException):\n        pass\nraise SystemExit(1)"]
ENTRYPOINT ["steerec"]
CMD ["serve", "--config", "/etc/steerec/steerec.toml"]
