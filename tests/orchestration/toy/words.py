"""What a message is made of."""

TOO_LARGE = "min_session_events is {value}, the limit is 12. Lower it in params.yaml."
