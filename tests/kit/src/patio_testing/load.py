"""Clients of engines, as a script that runs inside a cluster: `python3 - ORDER` until the file STOP is there.

ORDER is JSON: `urls`, `clients` of each, the `body` of every request, and how many `tokens` to ask for, at least and at
most. Each client sends one request after the other, each on a connection of its own, and reads its stream of tokens to
the end. Prints what became of every request, as a JSON list of [url, outcome, text]. Standard library only.
"""

import http.client
import json
import random
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STOP = Path("/tmp/stop")


def ask(url: str, body: dict[str, Any]) -> tuple[str, str]:
    """Return the finish reason of one request, or what went wrong with it, and its text as far as it came."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    headers = {"content-type": "application/json", "connection": "close"}
    reason, done, text = None, False, ""
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return f"{answer.status} {answer.read(300).decode(errors='replace')}", text
        for line in answer:
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                if "choices" not in event:
                    return f"error in the stream: {event}", text
                for choice in event["choices"]:
                    text += choice["text"]
                    reason = choice["finish_reason"] or reason
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}", text
    finally:
        connection.close()
    return str(reason) if done else f"ended with {reason}, without the end of the stream", text


def client(url: str, order: dict[str, Any], seed: str, ended: list[list[str]]) -> None:
    """Send requests until it is time to stop."""
    chance = random.Random(seed)
    while not STOP.exists():
        body = {**order["body"], "max_tokens": chance.randint(*order["tokens"]), "stream": True}
        ended.append([url, *ask(url, body)])


def main() -> None:
    """Run all clients and print what came of it."""
    STOP.unlink(missing_ok=True)
    order = json.loads(sys.argv[1])
    ended: list[list[str]] = []
    threads = [
        threading.Thread(target=client, args=(url, order, f"{url}{number}", ended))
        for url in order["urls"]
        for number in range(order["clients"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
