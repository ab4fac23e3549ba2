{{/* luigi.cfg from `luigiConfig`. A text of several lines goes on in lines that begin with blanks. */}}
{{- define "luigi-spanner.luigiCfg" -}}
{{- range $section, $keys := .Values.luigiConfig }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{- if regexMatch "\\n[ \t]*[#;]" (toString $value) }}
{{- fail (printf "luigiConfig.%s.%s has a line that begins with # or ;: Luigi would take it for a comment and leave it out." $section $key) }}
{{- end }}
{{ $key }} = {{ include "luigi-spanner.text" $value | trim | replace "\n" "\n    " }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}
