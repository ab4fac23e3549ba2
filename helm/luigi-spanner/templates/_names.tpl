{{- define "luigi-spanner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that what is put behind it stays within the 63 that a label may have. */}}
{{- define "luigi-spanner.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $made .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "luigi-spanner.selectorLabels" -}}
app.kubernetes.io/name: {{ include "luigi-spanner.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What selects replicas, and not the pods of the migration or of a test. */}}
{{- define "luigi-spanner.replicaLabels" -}}
{{ include "luigi-spanner.selectorLabels" . }}
app.kubernetes.io/component: scheduler
{{- end }}

{{- define "luigi-spanner.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: luigi
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object: (dict "root" $ "name" "" "component" "" "labels" dict "annotations" dict), all but root may be left out. */}}
{{- define "luigi-spanner.metadata" -}}
name: {{ .name | default (include "luigi-spanner.fullname" .root) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "luigi-spanner.labels" .root | nindent 2 }}
  {{- include "luigi-spanner.selectorLabels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component | default "scheduler" }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (.annotations | default dict) }}
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
