"""The limit that /validate is held against: Flask and nothing else, under the services' own server settings."""

from flask import Flask

from servicekit import gunicorn as services

globals().update(
    {name: value for name, value in vars(services).items() if not name.startswith("_")}
    | {
        "worker_class": "gthread",  # the services' own one drains a service, and here is none to start or stop
        "post_worker_init": lambda worker: None,
        "worker_exit": lambda server, worker: None,
    }
)

app = Flask("hello")


@app.get("/hello")
def hello() -> dict[str, str]:
    return {"hello": "world"}
