"""Users, items and times -> the scalars of training rows as of their times, by one call of Feast's API."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

SERVICE = "training"


def retrieve(store: "FeatureStore", entity_df: "pd.DataFrame") -> pa.Table:
    """The rows of entity_df, in order, with all counts and end_offset added as int64 without nulls.

    entity_df: user_id, item_id and event_timestamp, the request's time; other columns are kept. Counts are named
    <item | user | user_item>_<shows | clicks>_<scope>: in total, and within each trailing window that ends at the time
    minus the lag (user_shows_session: within session_gap_s). end_offset is the number of the user's events in
    data/<source>/user_histories that belong to the history.
    store: from features.online.load.offline_store. Lags are those in the views' tags.
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
