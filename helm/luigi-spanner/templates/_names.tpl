{{- define "luigi-spanner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 44 | trimSuffix "-" }}
{{- end }}

{{/* At most 44 characters, so that what is put behind it, here and by controllers, stays within the 63 that a label may have. */}}
{{- define "luigi-spanner.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- $full := default $made .Values.fullnameOverride }}
{{- if gt (len $full) 44 }}
{{- /* Two long names that differ at their end stay two. */}}
{{- $full = printf "%s-%s" (trunc 37 $full | trimSuffix "-") ($full | sha256sum | trunc 6) }}
{{- end }}
{{- trimSuffix "-" $full }}
{{- end }}

{{/* What selects everything of this release. */}}
{{- define "luigi-spanner.selectorLabels" -}}
app.kubernetes.io/name: {{ include "luigi-spanner.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* What selects replicas, and not the pods of the migration or of a test. */}}
{{- define "luigi-spanner.replicaLabels" -}}
{{ include "luigi-spanner.selectorLabels" . }}
app.kubernetes.io/component: scheduler
{{- end }}

{{/* Labels of an object or a pod: the user's, and ours over them, since selectors go by those.
     (dict "root" $ "component" "" "labels" dict "pod" true), all but root may be left out. */}}
{{- define "luigi-spanner.labels" -}}
{{- $root := .root }}
{{- $ours := include "luigi-spanner.selectorLabels" $root | fromYaml }}
{{- $_ := set $ours "app.kubernetes.io/component" (.component | default "scheduler") }}
{{- if not .pod }}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- $_ := set $ours "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | trimSuffix "-") }}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- end }}
{{- $defaults := dict "app.kubernetes.io/part-of" "luigi" }}
{{- toYaml (mergeOverwrite $defaults (deepCopy $root.Values.commonLabels) (deepCopy (.labels | default dict)) $ours) }}
{{- end }}

{{/* The metadata of an object: (dict "root" $ "name" "" "component" "" "labels" dict "annotations" dict), all but root may be left out. */}}
{{- define "luigi-spanner.metadata" -}}
name: {{ .name | default (include "luigi-spanner.fullname" .root) | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "luigi-spanner.labels" (dict "root" .root "component" .component "labels" .labels) | nindent 2 }}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (deepCopy (.annotations | default dict)) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "luigi-spanner.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.migrationServiceAccountName" -}}
{{- with .Values.migration.serviceAccount }}
{{- if .create }}
{{- default (printf "%s-migration" (include "luigi-spanner.fullname" $)) .name }}
{{- else }}
{{- default (include "luigi-spanner.serviceAccountName" $) .name }}
{{- end }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}
