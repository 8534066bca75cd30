"""Users, items and times -> what a training row knows in numbers as of its time: one call of Feast's own API."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

SERVICE = "training"


def retrieve(store: "FeatureStore", entity_df: "pd.DataFrame") -> pa.Table:
    """The rows of entity_df, in order, with all counts and end_offset as int64, none null.

    entity_df: user_id, item_id and event_timestamp, the request's time; whatever else it has stays. Counts are
    <item | user | user_item>_<shows | clicks>_<scope>: in total, and within each trailing window that ends at the time
    less the lag (user_shows_session: within session_gap_s). end_offset is where the user's history ends:
    data/<source>/user_histories, from the user's first event on.
    store: as features.online.load.offline_store opens it. Lags are the views' own.
    """
    service = store.get_feature_service(SERVICE)
    found = store.get_historical_features(entity_df=entity_df, features=service, full_feature_names=True).to_arrow()
    counted: dict[tuple[str, str], pa.ChunkedArray] = {}  # by name and scope: strictly before t - lag - window
    for projection in service.feature_view_projections:
        tags = store.get_feature_view(projection.name).tags
        for feature in projection.features:
            values = pc.call_function("coalesce", [found[f"{projection.name}__{feature.name}"], pa.scalar(0)])
            counted[tags["of"] + "_" + feature.name if "of" in tags else feature.name, tags.get("scope", "")] = values
    table = found.select([*entity_df.columns])
    for (name, scope), values in counted.items():
        if scope in ("", "total"):
            table = table.append_column(f"{name}_{scope}" if scope else name, values)
        else:
            table = table.append_column(
                f"{name}_{scope}", pc.call_function("subtract", [counted[name, "total"], values])
            )
    return table
