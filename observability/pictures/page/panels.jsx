// The panels: one component for each type of Grafana's panels that the dashboards use.
//
// BigValue, TimeSeries, TableNG and VizLegend are Grafana's own components, and every number, colour and word comes
// from Grafana's field overrides and display processors. The panel plugins themselves are not published as packages,
// so what a plugin does between the two is done here, and the timeline and the heatmap are drawn in `shapes`.

import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  FieldColorModeId,
  FieldConfigOptionsRegistry,
  getFieldDisplayValues,
  identityOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
  thresholdsOverrideProcessor,
  transformDataFrame,
  dateTime,
} from '@grafana/data';
import { BigValue, LegendDisplayMode, TimeSeries, useTheme2 } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { useEffect, useState } from 'react';

import { instantFrames, rangeFrames, tableFrame } from './frames.js';
import { Heatmap, StateTimeline } from './shapes.jsx';

const STANDARD = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'mappings', 'links'];

// What a graph has where the dashboard says nothing: the defaults of Grafana's panel.
const LINE = {
  axisBorderShow: false,
  axisCenteredZero: false,
  axisColorMode: 'text',
  axisLabel: '',
  axisPlacement: 'auto',
  barAlignment: 0,
  barWidthFactor: 0.6,
  drawStyle: 'line',
  fillOpacity: 0,
  gradientMode: 'none',
  hideFrom: { legend: false, tooltip: false, viz: false },
  lineInterpolation: 'linear',
  lineWidth: 1,
  pointSize: 5,
  scaleDistribution: { type: 'linear' },
  showPoints: 'auto',
  spanNulls: false,
  stacking: { group: 'A', mode: 'none' },
  thresholdsStyle: { mode: 'off' },
};
const CELL = { align: 'auto', cellOptions: { type: 'auto' }, filterable: false, inspect: false };
const CUSTOM = { timeseries: LINE, table: CELL };

function options(custom) {
  const item = (id, isCustom, process = identityOverrideProcessor) => ({
    id: isCustom ? `custom.${id}` : id,
    path: id,
    name: id,
    isCustom,
    process,
    shouldApply: () => true,
    settings: {},
  });
  return new FieldConfigOptionsRegistry(() => [
    ...STANDARD.map((id) => item(id, false)),
    item('thresholds', false, thresholdsOverrideProcessor),
    ...Object.keys(custom).map((id) => item(id, true)),
  ]);
}

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation: () => Promise.resolve(transformation),
  }))
);

/** Return frames with the panel's units, thresholds, mappings and overrides. */
function dressed(panel, data, theme) {
  const { defaults, overrides } = panel.fieldConfig;
  const custom = { ...CUSTOM[panel.type], ...defaults.custom };
  const color = { mode: panel.type === 'timeseries' ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds };
  const thresholds = defaults.thresholds ?? { mode: 'absolute', steps: [{ value: null, color: 'text' }] };
  const steps = thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity }));
  const made = applyFieldOverrides({
    data,
    fieldConfig: {
      defaults: {
        color,
        ...defaults,
        thresholds: { ...thresholds, steps },
        custom,
      },
      overrides: overrides ?? [],
    },
    fieldConfigRegistry: options({ ...CELL, ...custom, width: 0 }),
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(made);
  return made;
}

export function Nothing({ panel }) {
  const theme = useTheme2();
  const style = {
    alignItems: 'center',
    color: theme.colors.text.secondary,
    display: 'flex',
    height: '100%',
    justifyContent: 'center',
  };
  return <div style={style}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
}

function Stat({ panel, answers, width, height }) {
  const theme = useTheme2();
  const data = dressed(panel, answers.flatMap(instantFrames), theme);
  const values = getFieldDisplayValues({
    data,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });
  const gap = 8;
  const share = (width - gap * (values.length - 1)) / values.length;
  return (
    <div style={{ display: 'flex', gap }}>
      {values.map(({ display, name }, index) => (
        <BigValue
          key={index}
          width={share}
          height={height}
          value={display}
          count={values.length}
          colorMode={panel.options.colorMode}
          graphMode={panel.options.graphMode}
          textMode={panel.options.textMode}
          justifyMode={panel.options.justifyMode ?? 'auto'}
          theme={theme}
        />
      ))}
    </div>
  );
}

function Graph({ panel, answers, span, width, height }) {
  const theme = useTheme2();
  const data = dressed(panel, answers.flatMap((answer) => rangeFrames(answer, span)), theme);
  if (data.length === 0) {
    return <Nothing panel={panel} />;
  }
  const range = { from: dateTime(span.from * 1000), to: dateTime(span.to * 1000) };
  return (
    <TimeSeries
      frames={data}
      structureRev={1}
      timeRange={{ ...range, raw: range }}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ calcs: [], ...panel.options.legend, displayMode: LegendDisplayMode.List }}
      options={panel.options}
    />
  );
}

function Cells({ panel, answers, width, height }) {
  const theme = useTheme2();
  const [frame, setFrame] = useState(null);
  useEffect(() => {
    const frames = answers.filter(({ result }) => result.length).map(tableFrame);
    const wait = transformDataFrame(panel.transformations, frames).subscribe((made) =>
      setFrame(dressed(panel, made, theme)[0] ?? null)
    );
    return () => wait.unsubscribe();
  }, [panel, answers, theme]);
  if (answers.every(({ result }) => result.length === 0)) {
    return <Nothing panel={panel} />;
  }
  const { cellHeight, sortBy } = panel.options;
  return (
    frame && (
      <TableNG
        data={frame}
        fieldConfig={panel.fieldConfig}
        width={width}
        height={height}
        cellHeight={cellHeight}
        sortBy={sortBy}
      />
    )
  );
}

function Timeline({ panel, answers, span, width, height }) {
  const theme = useTheme2();
  const data = dressed(panel, answers.flatMap((answer) => rangeFrames(answer, span)), theme);
  if (data.length === 0) {
    return <Nothing panel={panel} />;
  }
  return <StateTimeline panel={panel} frames={data} span={span} width={width} height={height} />;
}

function Distribution({ panel, answers, span, width, height }) {
  if (answers.every(({ result }) => result.length === 0)) {
    return <Nothing panel={panel} />;
  }
  return <Heatmap panel={panel} answer={answers[0]} span={span} width={width} height={height} />;
}

export const KINDS = {
  heatmap: Distribution,
  'state-timeline': Timeline,
  stat: Stat,
  table: Cells,
  timeseries: Graph,
};
