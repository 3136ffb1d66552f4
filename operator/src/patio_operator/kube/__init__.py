"""The shell around the API server: `api` reads and writes objects, `kinds` names them, `events` tells users.

`watched` keeps what is read again and again, `known` says what that is.
"""
