FROM python:3.12-slim

# OpenCV's headless wheel and OpenVINO need these two; git and compilers are not needed.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libglib2.0-0 libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.lock .
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache --no-deps -r requirements.lock

COPY backend backend
# One user without rights; /data and /models are volumes it may write to.
RUN useradd --uid 1001 --create-home hardest \
 && mkdir /data /models && chown hardest /data /models
USER hardest
ENV DATA_DIR=/data MODEL_DIR=/models HOST=0.0.0.0 PORT=9090 PYTHONUNBUFFERED=1
VOLUME ["/data", "/models"]
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
CMD ["python", "-m", "backend", "serve"]
