#!/bin/sh
# Writes docker/prometheus/rules.yml as a PrometheusRule:
#   docker/kubernetes/prometheus-rule.sh >docker/kubernetes/prometheus-rule.yaml
set -eu
cat <<'END'
# Written by prometheus-rule.sh: change docker/prometheus/rules.yml instead.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ecg-monitor
spec:
END
sed 's/^./  &/' "$(dirname "$0")/../prometheus/rules.yml"
