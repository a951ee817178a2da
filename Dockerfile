# A model over HTTP (docs/guides/serve.md, "In a container"):
#   docker build -t tether-serve .
#   docker run -p 8000:8000 -e TETHER_TOKEN -v "$PWD/runs/mine:/model:ro" tether-serve
FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir "build>=1.2,<2"
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY src src
RUN python -m build --wheel --outdir /dist

FROM python:3.12-slim
# PyPI's torch for Linux on x86 brings 3 GB of CUDA; PyTorch's own index has the one for processors.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,starter
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6,<3" "torchvision>=0.21,<1"
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/*.whl)[$EXTRAS]" \
    && useradd --system --uid 10001 --home-dir /cache --create-home tether
ENV TETHER_CACHE=/cache HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tether", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
