{{/*
Whether an object of another project's API is made: "true" or nothing.
(list $ "monitoring.podMonitor" .Values.monitoring.podMonitor "monitoring.coreos.com/v1/PodMonitor")
*/}}
{{- define "patio.rendered" -}}
{{- $root := index . 0 -}}{{- $value := index . 1 -}}{{- $settings := index . 2 -}}{{- $kind := index . 3 -}}
{{- if $settings.enabled -}}
{{- if or (eq $settings.renderMode "always") ($root.Capabilities.APIVersions.Has $kind) -}}
true
{{- else if eq $settings.renderMode "fail" -}}
{{- fail (printf "%s.enabled is true, and the cluster has no %s: install its CRD, or set %s.renderMode to skip or always" $value $kind $value) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Name and labels of an object for monitoring: (list $ "patio-sidecar" .Values.monitoring.podMonitor) */}}
{{- define "patio.monitoring.metadata" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $settings := index . 2 -}}
name: {{ $name }}
namespace: {{ $settings.namespace | default $root.Release.Namespace }}
{{ include "patio.metadata" (list $root $settings.labels $settings.annotations) }}
{{- end }}

{{/* One alert with its placeholders replaced: (list $rule $page .Values.monitoring.rules). Gives YAML. */}}
{{- define "patio.alert" -}}
{{- $rule := index . 0 -}}{{- $page := index . 1 -}}{{- $settings := index . 2 -}}
{{- $annotations := $rule.annotations -}}
{{- $texts := dict "expr" $rule.expr "description" $annotations.description -}}
{{- range $name, $value := $settings.thresholds -}}
{{- range $key, $text := $texts -}}
{{- $_ := set $texts $key ($text | replace (printf "${%s}" $name) (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- with regexFind "[$][{]\\w+[}]" (printf "%s %s" $texts.expr $texts.description) -}}
{{- fail (printf "monitoring.rules.thresholds has no %s: set it to a number, or leave it out for the default" (trimAll "${}" .)) -}}
{{- end -}}
{{- $dashboard := $annotations.dashboard_url | replace "${dashboardUrl}" (trimSuffix "/" $settings.dashboardUrl) -}}
{{- $runbook := $settings.runbookUrl | replace "{page}" $page | replace "{alert}" (lower $rule.alert) -}}
{{- $annotations = merge (dict "description" $texts.description "dashboard_url" $dashboard "runbook_url" $runbook) $annotations -}}
{{- $labels := merge (dict) $settings.extraLabels $rule.labels -}}
{{- toYaml (merge (dict "expr" $texts.expr "labels" $labels "annotations" $annotations) $rule) -}}
{{- end }}
