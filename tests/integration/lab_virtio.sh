#!/bin/bash
# labels: lab
# timeout: 1200
# beside: yes
exec "$(dirname "$0")/../lab/lab" run virtio
