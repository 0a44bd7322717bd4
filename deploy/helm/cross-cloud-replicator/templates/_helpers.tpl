{{- define "replicator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "replicator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "replicator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "replicator.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "replicator.selector" -}}
app.kubernetes.io/name: {{ include "replicator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "replicator.labels" -}}
{{ include "replicator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "replicator.metadata" -}}
name: {{ include "replicator.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "replicator.labels" . | nindent 2 }}
{{- end -}}

{{- define "replicator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "replicator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "replicator.secret" -}}
{{- .Values.secret.existingSecret | default (include "replicator.fullname" .) -}}
{{- end -}}

{{/* A setting as the program reads it. YAML's numbers are floats here: 1209600 would be shown as 1.2096e+06. */}}
{{- define "replicator.setting" -}}
{{- $value := .value -}}
{{- if kindIs "slice" $value -}}
{{- if eq .name "ROUTES" -}}{{- toRawJson $value -}}{{- else -}}{{- join "," $value -}}{{- end -}}
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{- printf "%.0f" $value -}}
{{- else -}}
{{- toString $value -}}
{{- end -}}
{{- end -}}

{{/* What the program would take for a number that is not given. Held against its settings by a test. */}}
{{- define "replicator.number" -}}
{{- $defaults := dict "API_PORT" 8000 "CONCURRENCY" 32 "DRAIN_TIMEOUT_SECONDS" 25 "MEMORY_BUDGET_MIB" 256 "STARTUP_TIMEOUT_SECONDS" 30 "WORKERS" 1 -}}
{{- $given := get .root.Values.config .name -}}
{{- if or (kindIs "invalid" $given) (eq (toString $given) "") -}}
{{- get $defaults .name -}}
{{- else -}}
{{- include "replicator.setting" (dict "name" .name "value" $given) -}}
{{- end -}}
{{- end -}}

{{- define "replicator.port" -}}
{{- include "replicator.number" (dict "root" . "name" "API_PORT") -}}
{{- end -}}

{{/* A whole number of seconds, at least as many as the setting says. */}}
{{- define "replicator.seconds" -}}
{{- include "replicator.number" . | float64 | ceil | int -}}
{{- end -}}

{{/* DRAIN_TIMEOUT_SECONDS, 5 s to give back what was not finished, and 10 s to spare; preStop counts, too. */}}
{{- define "replicator.grace" -}}
{{- $drain := include "replicator.seconds" (dict "root" . "name" "DRAIN_TIMEOUT_SECONDS") | int -}}
{{- add $drain (int .Values.preStopSeconds) 15 -}}
{{- end -}}

{{/* Memory: the budget, and 256 MiB for each process, of which each takes 66 MiB and up to 35 for identities. More than
     one worker has a parent. No limit on CPU: a throttled process extends its leases late. */}}
{{- define "replicator.resources" -}}
{{- if .Values.resources -}}
{{- toYaml .Values.resources -}}
{{- else -}}
{{- $workers := include "replicator.number" (dict "root" . "name" "WORKERS") | int -}}
{{- $processes := ternary (add $workers 1) $workers (gt $workers 1) -}}
{{- $budget := include "replicator.number" (dict "root" . "name" "MEMORY_BUDGET_MIB") | int -}}
{{- $memory := printf "%dMi" (add $budget (mul 256 $processes)) -}}
requests:
  cpu: {{ mul 500 $workers }}m
  memory: {{ $memory }}
limits:
  memory: {{ $memory }}
{{- end -}}
{{- end -}}

{{/* The container's memory limit in bytes; empty when it has none. */}}
{{- define "replicator.memoryLimit" -}}
{{- $limits := (include "replicator.resources" . | fromYaml).limits | default dict -}}
{{- with $limits.memory -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $text := ternary (printf "%.0f" .) (toString .) (kindIs "float64" .) -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- printf "%.0f" (mulf (trimSuffix $unit $text | float64) (get $units $unit)) -}}
{{- end -}}
{{- end -}}

{{/* The rules with what this release knows: its objective, its limit, and whether no pod at all is a good sign. */}}
{{- define "replicator.ruleGroups" -}}
{{- $limit := include "replicator.memoryLimit" . -}}
{{- $records := dict "replicator:lag_objective_seconds" (printf "vector(%v)" .Values.prometheusRule.lagObjectiveSeconds) -}}
{{- $records = set $records "replicator:memory_limit_bytes" (ternary (printf "vector(%s)" $limit) "" (ne $limit "")) -}}
{{- $toZero := and .Values.keda.enabled (eq (int .Values.keda.minReplicas) 0) -}}
{{- $unwanted := ternary (list "ReplicatorAbsent" "ReplicatorDeploymentGone") list $toZero -}}
{{- $groups := list -}}
{{- range (.Files.Get "files/replicator.rules.yaml" | fromYaml).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- $rule := . -}}
{{- if .record -}}
{{- $rule = set $rule "expr" (get $records .record) -}}
{{- end -}}
{{- if and $rule.expr (not (has .alert $unwanted)) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- $groups = append $groups (set . "rules" $rules) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* What the schema cannot say: rules between values. Each message tells what to do. */}}
{{- define "replicator.rules" -}}
{{- $config := .Values.config -}}
{{- if not (or $config.SQS_QUEUE_URL $config.PUBSUB_SUBSCRIPTION) -}}
{{- fail "config: set SQS_QUEUE_URL or PUBSUB_SUBSCRIPTION, or the daemon does not start" -}}
{{- end -}}
{{- if not (or $config.GCS_BUCKET_NAME $config.ROUTES $config.ROUTES_FILE) -}}
{{- fail "config: set GCS_BUCKET_NAME, ROUTES or ROUTES_FILE, or the daemon does not start" -}}
{{- end -}}
{{- if and .Values.secret.existingSecret .Values.secret.values -}}
{{- fail "secret: existingSecret and values are both set; put everything into one of them" -}}
{{- end -}}
{{- if gt (len (compact (list .Values.google.existingSecret .Values.google.federation.provider ($config.GOOGLE_APPLICATION_CREDENTIALS | default "")))) 1 -}}
{{- fail "google: set one of google.existingSecret, google.federation.provider and config.GOOGLE_APPLICATION_CREDENTIALS" -}}
{{- end -}}
{{- if and .Values.google.federation.serviceAccount (not .Values.google.federation.provider) -}}
{{- fail "google.federation: serviceAccount is set without provider" -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- if not $config.SQS_QUEUE_URL -}}
{{- fail "keda.enabled needs config.SQS_QUEUE_URL: the trigger counts the messages of that queue" -}}
{{- end -}}
{{- $concurrency := include "replicator.number" (dict "root" . "name" "CONCURRENCY") | int -}}
{{- if le (int .Values.keda.messagesPerPod) $concurrency -}}
{{- fail (printf "keda.messagesPerPod must be above CONCURRENCY, which is %d: messages in flight count, and pods would be held by what they hold themselves" $concurrency) -}}
{{- end -}}
{{- if gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas) -}}
{{- fail "keda.minReplicas must be at most keda.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- $ledger := .Values.secret.values.LEDGER_URL | default "" -}}
{{- if and .Values.networkPolicy.enabled (hasPrefix "redis" $ledger) -}}
{{- $port := regexFind ":[0-9]+$" (urlParse $ledger).host | trimPrefix ":" | default "6379" -}}
{{- $open := list -}}
{{- range .Values.networkPolicy.egressPorts -}}{{- $open = append $open (toString .) -}}{{- end -}}
{{- if not (or (has $port $open) .Values.networkPolicy.extraEgress) -}}
{{- fail (printf "networkPolicy.egressPorts must hold %s, the port of secret.values.LEDGER_URL, or the ledger cannot be reached" $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
