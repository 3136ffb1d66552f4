"""Clients of engines, as a script that runs inside a cluster: `python3 - URL ...` until the file STOP is there.

Each client sends one request after the other, each on a connection of its own, and reads its stream of tokens to the
end. Prints what was served and what was lost, by URL, as JSON. Standard library only.
"""

import http.client
import json
import random
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

STOP = Path("/tmp/stop")
STREAMS = 4
"""Clients of each URL."""
TOKENS = (60, 240)


def ask(url, tokens):
    """Return what went wrong with one request, or nothing."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=120)
    body = {"model": "tiny", "prompt": "once upon a time", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    headers = {"content-type": "application/json", "connection": "close"}
    reason, done = None, False
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return f"{answer.status} {answer.read(300).decode(errors='replace')}"
        for line in answer:
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                if "choices" not in event:
                    return f"error in the stream: {event}"
                for choice in event["choices"]:
                    reason = choice["finish_reason"] or reason
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if done and reason == "length" else f"ended with {reason}, done: {done}"


def client(url, seed, served, lost):
    """Send requests until it is time to stop."""
    chance = random.Random(seed)
    while not STOP.exists():
        problem = ask(url, chance.randint(*TOKENS))
        if problem is None:
            served.append(1)
        else:
            lost.append(problem)


def main():
    """Run all clients and print what came of it."""
    STOP.unlink(missing_ok=True)
    seen = {url: ([], []) for url in sys.argv[1:]}
    threads = [
        threading.Thread(target=client, args=(url, f"{url}{number}", *lists))
        for url, lists in seen.items()
        for number in range(STREAMS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({url: {"served": len(served), "lost": lost} for url, (served, lost) in seen.items()}))


if __name__ == "__main__":
    main()
