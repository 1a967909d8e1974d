#!/bin/bash
# labels: lab
# timeout: 700
exec "$(dirname "$0")/../lab/lab" run guest
