{{/* A value as text. Helm reads whole numbers as floats and would write 1000000 as 1e+06. */}}
{{- define "luigi-spanner.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}
{{- else if or (kindIs "map" .) (kindIs "slice" .) }}{{ toJson . }}
{{- else }}{{ toString . }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.storeUrl" -}}
{{- if eq .Values.store.type "sqlite" -}}
sqlite:////var/lib/luigi-spanner/luigi.db
{{- else }}
{{- with .Values.store.spanner -}}
spanner:///projects/{{ .project }}/instances/{{ .instance }}/databases/{{ .database }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables that say where the state lives: (dict "root" $ "secret" "name of the Secret with a key file, if any"). */}}
{{- define "luigi-spanner.storeEnv" -}}
- name: LUIGI_SPANNER_STORE
  value: {{ include "luigi-spanner.storeUrl" .root }}
{{- with .root.Values.store.spanner.emulatorHost }}
- name: SPANNER_EMULATOR_HOST
  value: {{ . | quote }}
{{- end }}
{{- if .secret }}
- name: GOOGLE_APPLICATION_CREDENTIALS
  value: /etc/google/{{ .root.Values.googleCredentials.key }}
{{- end }}
{{- end }}

{{/* Variables of the scheduler's own options. */}}
{{- define "luigi-spanner.schedulerEnv" -}}
{{- $names := dict "namespace" "NAMESPACE" "hold" "HOLD" "drain" "DRAIN" "logFormat" "LOG_FORMAT" "rulesMismatch" "RULES_MISMATCH" "journalKeep" "JOURNAL_KEEP" "historyDays" "HISTORY_DAYS" "maxBodyBytes" "MAX_BODY_BYTES" "metricsResources" "METRICS_RESOURCES" "metricsTaskSeries" "METRICS_TASK_SERIES" }}
{{- range $key, $name := $names }}
{{- $value := index $.Values.scheduler $key }}
{{- if not (kindIs "invalid" $value) }}
- name: LUIGI_SPANNER_{{ $name }}
  value: {{ include "luigi-spanner.text" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What all containers of the product share: (dict "root" $ "secret" ""). */}}
{{- define "luigi-spanner.containerBase" -}}
image: {{ include "luigi-spanner.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- with .root.Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .secret }}
- name: google-credentials
  mountPath: /etc/google
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "luigi-spanner.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .secret }}
- name: google-credentials
  secret:
    secretName: {{ . | quote }}
    items:
      - key: {{ $.root.Values.googleCredentials.key | quote }}
        path: {{ $.root.Values.googleCredentials.key | quote }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where and as whom pods run. */}}
{{- define "luigi-spanner.placement" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "priorityClassName" "schedulerName" "runtimeClassName" "hostAliases" "dnsConfig" }}
{{- with index $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Replicas in different zones, and rather not on one node. */}}
{{- define "luigi-spanner.spread" -}}
{{- if or .Values.zoneSpread .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- with .Values.zoneSpread }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: {{ . }}
    # Nodes that take no pods, as those of a zone that is down, do not count.
    nodeTaintsPolicy: Honor
    # Else a rollout would count the pods that it replaces.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "luigi-spanner.replicaLabels" $ | nindent 8 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if kindIs "invalid" .Values.affinity }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "luigi-spanner.replicaLabels" . | nindent 14 }}
{{- else }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Without a hook nothing says when the schema is there. */}}
{{- define "luigi-spanner.waitsForSchema" -}}
{{- if and (eq .Values.store.type "spanner") .Values.migration.enabled (not .Values.migration.useHooks) }}true{{ end }}
{{- end }}

{{/* The template of a replica's pod, for Deployment and StatefulSet. */}}
{{- define "luigi-spanner.pod" -}}
{{- $sqlite := eq .Values.store.type "sqlite" }}
{{- $parts := dict "root" . "secret" (and (not $sqlite) .Values.googleCredentials.existingSecret) }}
metadata:
  labels:
    {{- include "luigi-spanner.labels" (dict "root" . "labels" .Values.podLabels "pod" true) | nindent 4 }}
  annotations:
    checksum/config: {{ include "luigi-spanner.luigiCfg" . | sha256sum }}
    {{- with mergeOverwrite (deepCopy .Values.commonAnnotations) .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "luigi-spanner.serviceAccountName" . | quote }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- include "luigi-spanner.placement" . | nindent 2 }}
  {{- include "luigi-spanner.spread" . | nindent 2 }}
  {{- if or (include "luigi-spanner.waitsForSchema" .) .Values.extraInitContainers }}
  initContainers:
    {{- if include "luigi-spanner.waitsForSchema" . }}
    - name: wait-for-schema
      # A shell that is process 1 has to be told to end.
      command: [sh, -c, "trap 'exit 1' TERM; until luigi-spanner db check; do sleep 3 & wait $!; done"]
      {{- include "luigi-spanner.containerBase" $parts | nindent 6 }}
      env:
        {{- include "luigi-spanner.storeEnv" $parts | nindent 8 }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml .Values.migration.resources | nindent 8 }}
      volumeMounts:
        {{- include "luigi-spanner.mounts" $parts | nindent 8 }}
    {{- end }}
    {{- with .Values.extraInitContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: scheduler
      command: [luigi-spanner, serve]
      args:
        - --port=8082
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      {{- include "luigi-spanner.containerBase" $parts | nindent 6 }}
      env:
        {{- include "luigi-spanner.storeEnv" $parts | nindent 8 }}
        {{- include "luigi-spanner.schedulerEnv" . | nindent 8 }}
        - name: LUIGI_CONFIG_PATH
          value: /etc/luigi/luigi.cfg
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 8082
          protocol: TCP
      {{- range $probe := list "startupProbe" "livenessProbe" "readinessProbe" }}
      {{- with index $.Values $probe }}
      {{ $probe }}:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      {{- with .Values.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/luigi
          readOnly: true
        {{- if $sqlite }}
        - name: state
          mountPath: /var/lib/luigi-spanner
        {{- end }}
        {{- include "luigi-spanner.mounts" $parts | nindent 8 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "luigi-spanner.fullname" . }}
    {{- if $sqlite }}
    {{- with .Values.store.sqlite.persistence }}
    {{- if not .enabled }}
    - name: state
      emptyDir: {}
    {{- else if .existingClaim }}
    - name: state
      persistentVolumeClaim:
        claimName: {{ .existingClaim }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- include "luigi-spanner.volumes" $parts | nindent 4 }}
{{- end }}
