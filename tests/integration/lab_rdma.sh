#!/bin/bash
# labels: lab
# timeout: 800
exec "$(dirname "$0")/../lab/lab" run rdma
