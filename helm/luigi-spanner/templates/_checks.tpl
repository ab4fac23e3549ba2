{{/* What the schema cannot say in a clear sentence. */}}
{{- define "luigi-spanner.check" -}}
{{- $least := .Values.autoscaling.enabled | ternary .Values.autoscaling.minReplicas .Values.replicaCount | int }}
{{- if eq .Values.store.type "sqlite" }}
{{- if .Values.autoscaling.enabled }}
{{- fail "store.type is sqlite, which has one replica: a SQLite file cannot be shared between pods. Set autoscaling.enabled to false, or store.type to spanner." }}
{{- end }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "store.type is sqlite and replicaCount is %d: a SQLite file cannot be shared between pods. Set replicaCount to 1, or store.type to spanner." (int .Values.replicaCount)) }}
{{- end }}
{{- else }}
{{- $empty := list }}
{{- range $key := list "project" "instance" "database" }}
{{- if not (index $.Values.store.spanner $key) }}
{{- $empty = append $empty (printf "store.spanner.%s" $key) }}
{{- end }}
{{- end }}
{{- if $empty }}
{{- fail (printf "Empty: %s. Say which Spanner database holds the state, or set store.type to sqlite and replicaCount to 1." (join ", " $empty)) }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas." }}
{{- end }}
{{- if and .enabled (kindIs "invalid" .targetCPUUtilizationPercentage) (kindIs "invalid" .targetMemoryUtilizationPercentage) }}
{{- fail "autoscaling.enabled needs a target: targetCPUUtilizationPercentage or targetMemoryUtilizationPercentage." }}
{{- end }}
{{- end }}
{{- $end := add (ceil (.Values.scheduler.drain | default 0)) (ceil (.Values.scheduler.hold | default 8)) }}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $end) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, and scheduler.drain and scheduler.hold take %d together: calls under way would be killed." (int .Values.terminationGracePeriodSeconds) (int $end)) }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (not (kindIs "invalid" .minAvailable)) (not (kindIs "invalid" .maxUnavailable)) }}
{{- fail "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable exclude each other: set one of them to null." }}
{{- end }}
{{- if and .enabled (kindIs "float64" .minAvailable) (gt $least 1) (ge (int .minAvailable) $least) }}
{{- fail (printf "podDisruptionBudget.minAvailable is %d with %d replicas: no node that has one could be drained." (int .minAvailable) $least) }}
{{- end }}
{{- if and .enabled (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) }}
{{- fail "podDisruptionBudget.enabled needs minAvailable or maxUnavailable." }}
{{- end }}
{{- end }}
{{- if and (eq .Values.store.type "spanner") .Values.migration.enabled .Values.serviceAccount.create (eq (include "luigi-spanner.migrationServiceAccountName" .) (include "luigi-spanner.serviceAccountName" .)) (or .Values.migration.useHooks .Values.migration.serviceAccount.create) }}
{{- fail "the migration would use the service account of the replicas, which is made after it: let migration.serviceAccount have a name of its own, name one that there is, or set migration.useHooks and migration.serviceAccount.create to false." }}
{{- end }}
{{- with .Values.strategy.rollingUpdate }}
{{- if and (eq $.Values.strategy.type "RollingUpdate") (has (toString .maxSurge) (list "0" "0%")) (has (toString .maxUnavailable) (list "0" "0%")) }}
{{- fail "strategy.rollingUpdate.maxSurge and maxUnavailable are both 0: no pod could ever be replaced." }}
{{- end }}
{{- end }}
{{- range $probe := list "startupProbe" "livenessProbe" "readinessProbe" }}
{{- $handlers := list }}
{{- range $handler := list "httpGet" "tcpSocket" "exec" "grpc" }}
{{- if get (get $.Values $probe | default dict) $handler }}
{{- $handlers = append $handlers $handler }}
{{- end }}
{{- end }}
{{- if gt (len $handlers) 1 }}
{{- fail (printf "%s asks in two ways, %s: set one of them to null." $probe (join " and " $handlers)) }}
{{- end }}
{{- end }}
{{- if .Values.luigiConfig.luigi_spanner }}
{{- fail "luigiConfig.luigi_spanner would have no effect: what it says is said by the values under scheduler and store." }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if or (hasPrefix "LUIGI_SPANNER_" .name) (has .name (list "LUIGI_CONFIG_PATH" "SPANNER_EMULATOR_HOST")) (and (eq .name "GOOGLE_APPLICATION_CREDENTIALS") $.Values.googleCredentials.existingSecret) }}
{{- fail (printf "extraEnv names %s, which the chart sets: use the values under scheduler, store and googleCredentials." .name) }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- if regexMatch "^--(port|store|namespace|drain|hold|unix-socket|background|pidfile|logdir|log-format|rules-mismatch|journal-keep|history-days|max-body-bytes|metrics-resources|metrics-task-series)" . }}
{{- fail (printf "extraArgs has %s, which the chart says: use the values under scheduler and store." .) }}
{{- end }}
{{- end }}
{{- if and .Values.networkPolicy.egress.enabled (not .Values.networkPolicy.enabled) }}
{{- fail "networkPolicy.egress.enabled has no effect without networkPolicy.enabled." }}
{{- end }}
{{- if and (eq .Values.service.type "ClusterIP") (or .Values.service.nodePort .Values.service.loadBalancerSourceRanges .Values.service.externalTrafficPolicy .Values.service.loadBalancerClass) }}
{{- fail "service.nodePort, loadBalancerSourceRanges, externalTrafficPolicy and loadBalancerClass are for the types NodePort and LoadBalancer, and service.type is ClusterIP." }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts." }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the gateway that it belongs to." }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would both scrape every replica, and sums over replicas would be twice too large: enable one." }}
{{- end }}
{{- if and .Values.store.spanner.emulatorHost (or .Values.googleCredentials.existingSecret .Values.migration.existingSecret) }}
{{- fail "store.spanner.emulatorHost is a Spanner emulator, which takes no credentials: leave googleCredentials and migration.existingSecret empty." }}
{{- end }}
{{- end }}
