# dynlog with every extra, at the versions that constraints.txt names, run by nobody in particular.
#
#     docker build -t dynlog .
#     docker run --rm dynlog --help
#
# PYTHON_IMAGE chooses another base; which package index pip asks is the builder's own setting (--build-arg PIP_INDEX_URL).
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
WORKDIR /source
COPY constraints.txt .
# The pins without their hashes: with hashes pip would ask for one of dynlog itself, which is built just here.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' constraints.txt > pins.txt && python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY storage storage
COPY adapters adapters
COPY migrations migrations
COPY dynlog dynlog
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint pins.txt '.[all]'

FROM ${PYTHON_IMAGE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["dynlog"]
CMD ["--help"]
