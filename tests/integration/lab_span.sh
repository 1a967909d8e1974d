#!/bin/bash
# labels: lab
# timeout: 900
# The short form of the span scenario.
exec "$(dirname "$0")/../lab/lab" run span --short
