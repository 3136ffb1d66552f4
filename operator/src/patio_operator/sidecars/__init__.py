"""The shell around the sidecars: `watch` reads what they report, by long-poll; `orders` tells them what to have, in
calls that `signed` signs."""
