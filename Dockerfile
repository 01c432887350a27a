# EchoRay for a Ray cluster (ray_job.yaml). The tag names both versions:
#   docker build --tag registry.example/echoray:0.1.0-ray2.60.0 .
#
# Ray's own image: KubeRay expects `ray`, bash and a user in it. Its CUDA is not used: torch's wheels bring their own, and DeepSpeed's ZeRO
# compiles nothing. What counts is the nodes' driver: torch from PyPI is built for CUDA 13, which needs 580 or newer
# (docs/cluster.md, "Drivers"). The one for CPUs would do as well; `gpu` is Ray's default for pods with GPUs.
FROM rayproject/ray:2.60.0-py311-gpu

# /models: where Hugging Face's files go.
USER root
RUN mkdir /models && chown ray /models
USER ray
ENV HF_HOME=/models RAY_USAGE_STATS_ENABLED=0

# Jobs start here, so that their paths are those of the repository. Dependencies come first: a change of the code does not install them anew.
WORKDIR /home/ray/echoray
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /tmp/requirements.txt && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt

COPY LICENSE README.md ./
COPY actors ./actors
COPY bench ./bench
COPY cluster ./cluster
COPY pipelines ./pipelines
COPY recipes ./recipes
COPY tests ./tests
COPY toy ./toy
