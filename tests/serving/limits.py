"""What tests without a bundle say of retrieval."""

from serving.params import RetrievalParams

RETRIEVAL = RetrievalParams(
    num_candidates=3,
    num_themes=2,
    num_recent=5,
    theme_weight=1.0,
    popular_share=0.25,
    new_share=0.1,
    popular_s=3600,
    new_s=3600,
    idle_s=3600,
    diversity=0.3,
)
