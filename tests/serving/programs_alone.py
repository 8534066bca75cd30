"""What a service says where `training` cannot be imported: run as a program with EVERY, bundle, state and snapshot.

Prints JSON. One golden request in EVERY is asked over the store too.
"""

import json
import sys
from pathlib import Path

sys.modules["training"] = None  # type: ignore[assignment] - importing it fails from here on

import numpy as np  # noqa: E402

import serving.service  # noqa: E402, F401 - all that a service imports
from contracts.errors import InputError  # noqa: E402
from serving.answering.predictor import Predictor  # noqa: E402
from serving.answering.recommend import RecommendRequest, recommend  # noqa: E402
from serving.answering.requests import RankRequest, to_iso  # noqa: E402
from serving.bundle.golden import differences  # noqa: E402
from serving.bundle.runner_up import open_runner_up  # noqa: E402

if __name__ == "__main__":
    predictor = Predictor.open(*map(Path, sys.argv[2:]))
    golden = predictor.bundle.golden
    off = [differences(np.array(one.rescore(predictor.bundle.scorer)), np.array(one.logits)).max() for one in golden]
    ranked, recommended = [], []
    for one in golden[:: int(sys.argv[1])]:
        asked = {"user_id": one.user_id, "at": to_iso(one.at)}
        ranked.append(predictor.rank(RankRequest(**asked, candidates=one.candidates)).model_dump(mode="json"))
        recommended.append(recommend(predictor, RecommendRequest(**asked)).reply.model_dump(mode="json"))
    try:
        predictor.rank(RankRequest(user_id=golden[0].user_id, candidates=golden[0].candidates, explain=True))
    except InputError as error:
        refused = str(error)
    told = {"scorer": type(predictor.bundle.scorer).__name__, "refused": refused, "off": max(map(float, off))}
    print(
        json.dumps(
            told | {"beside": str(open_runner_up(predictor.bundle)), "ranked": ranked, "recommended": recommended}
        )
    )
