#!/bin/sh
# Run benchmarks/compat/pygorse.py: an environment with PyGorse, and the sample shop to call.
# Usage: sh benchmarks/compat/pygorse.sh [folder of the environment]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${TMPDIR:-/tmp}/steerec-pygorse}
steerec=${STEEREC:-steerec}
port=${PORT:-18087}

if [ ! -x "$folder/venv/bin/python" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "PyGorse==0.5.1"
fi
work=$(mktemp -d)
cd "$work"
printf '[encoder]\nencoder = "hashing"\n' > steerec.toml
"$steerec" serve --sample --port "$port" 2> serve.log &
service=$!
trap 'kill $service 2> /dev/null || true; wait $service || true; rm -r "$work"' EXIT
tries=0
until "$folder/venv/bin/python" -c "
import requests, sys
sys.exit(requests.get('http://127.0.0.1:$port/gorse/api/health/ready').status_code != 200)
" 2> /dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ] || ! kill -0 $service 2> /dev/null; then
        cat serve.log
        exit 1
    fi
    sleep 1
done
"$folder/venv/bin/python" "$here/pygorse.py" "http://127.0.0.1:$port/gorse"
