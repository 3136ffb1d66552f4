"""The shell around the API server: `api` reads and writes objects, `kinds` names them, `events` tells users."""
