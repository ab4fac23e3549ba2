{{/* What the schema cannot say in a clear sentence. */}}
{{- define "luigi-spanner.check" -}}
{{- $most := .Values.autoscaling.enabled | ternary .Values.autoscaling.maxReplicas .Values.replicaCount | int }}
{{- if eq .Values.store.type "sqlite" }}
{{- if .Values.autoscaling.enabled }}
{{- fail "store.type is sqlite, which has one replica: a SQLite file cannot be shared between pods. Set autoscaling.enabled to false, or store.type to spanner." }}
{{- end }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "store.type is sqlite and replicaCount is %d: a SQLite file cannot be shared between pods. Set replicaCount to 1, or store.type to spanner." (int .Values.replicaCount)) }}
{{- end }}
{{- else }}
{{- range $key := list "project" "instance" "database" }}
{{- if not (get $.Values.store.spanner $key) }}
{{- fail (printf "store.spanner.%s is empty: say which Spanner database holds the state, or set store.type to sqlite and replicaCount to 1." $key) }}
{{- end }}
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
{{- if and .enabled (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) }}
{{- fail "podDisruptionBudget.enabled needs minAvailable or maxUnavailable." }}
{{- end }}
{{- end }}
{{- if and (eq .Values.store.type "spanner") .Values.migration.enabled .Values.migration.useHooks (not .Values.migration.serviceAccount.create) .Values.serviceAccount.create (eq (include "luigi-spanner.migrationServiceAccountName" .) (include "luigi-spanner.serviceAccountName" .)) }}
{{- fail "migration.serviceAccount.create is false, and the replicas' service account is made after the migration, which is a hook: let the migration have its own, name one that there is, or set migration.useHooks to false." }}
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
