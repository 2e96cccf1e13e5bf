#!/usr/bin/env bash
# A night's work for cron: new files into Parquet, and the model trained again if there are any. In a crontab:
#
#   15 2 * * *  CONFIG=/home/me/higgs.yaml DATA=/data/higgs OUT=/data/higgs-night /opt/mlaas_spark/conf/schedule/night.sh
#
# Each step is safe to repeat: a night that was killed is made good by the next. The exit code is that of the first step
# that failed: 3 input, 4 data (new files that are not as before, another job at work), 5 training, 6 serving.
set -euo pipefail

: "${CONFIG:?a YAML config, see conf/local.yaml}" "${DATA:?folder of the ROOT files}" "${OUT:?folder for what is made}"
MLAAS_SPARK=${MLAAS_SPARK:-mlaas-spark} # on a cluster: spark-submit ... jobs/retrain.py in place of its verb
TEXTFILES=${TEXTFILES:-$OUT/metrics}    # where node_exporter's textfile collector looks
mkdir -p "$OUT" "$TEXTFILES"

job() { # name, verb and options
  local name=$1
  shift
  "$MLAAS_SPARK" scheduled --name "$name" --lock "$OUT/lock-$name" --metrics-file "$TEXTFILES/mlaas_spark_$name.prom" \
    --log-json "$OUT/$name.jsonl" ${NOTIFY:+--notify "$NOTIFY"} "$@"
}

job convert convert "$DATA" --config "$CONFIG" --out "$OUT/parquet"
job retrain retrain --config "$CONFIG" --since last --drift "${DRIFT:-fail}"
