#!/bin/bash
# labels: lab
# timeout: 900
exec "$(dirname "$0")/../lab/lab" run guest
