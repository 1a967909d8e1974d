#!/bin/bash
# labels: lab
# timeout: 400
exec "$(dirname "$0")/../lab/lab" run network
