#!/bin/bash
# labels: lab
# timeout: 900
# beside: yes
exec "$(dirname "$0")/../lab/lab" run guest
