"""The bundle and online state of this machine -> `POST /rank` by FastAPI and uvicorn alone, with the same predictor.

`python -m benchmarks.plain <port>`: what benchmarks/rank_speed.py compares the service with. There are no limits,
metrics, deadlines, tokens or live switch here; a ranking is computed in one thread, as in the service.

    /rank    as FastAPI's documentation writes it: a checked message in, a typed reply out
    /lean    the least that answers: the body as pydantic reads it, the reply as its JSON, computed in the event loop
"""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI, Request, Response

from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import RankReply, RankRequest


def application(predictor: Predictor) -> FastAPI:
    """Both routes over one predictor."""
    app = FastAPI()
    computing = ThreadPoolExecutor(1, "rank", torch.set_num_threads, (predictor.limits.num_threads,))

    @app.post("/rank")
    def rank(request: RankRequest) -> RankReply:
        return computing.submit(predictor.rank, request).result()

    @app.post("/lean")
    async def lean(request: Request) -> Response:
        asked = RankRequest.model_validate_json(await request.body())
        return Response(predictor.rank(asked).model_dump_json(), media_type="application/json")

    @app.get("/livez")
    async def livez() -> Response:
        return Response("", media_type="text/plain")

    return app


def main() -> None:
    """Serve until the process is ended."""
    app = application(open_here())
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
