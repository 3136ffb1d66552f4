// One dashboard as a page: `/?uid=patio-fleet&theme=light` draws it from `/data.json`, then says so in the body.

import { createTheme, dateTimeFormat } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, Icon, PanelChrome, ThemeContext, useTheme2 } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

import { KINDS, Nothing } from './panels.jsx';

const COLUMNS = 24;
const CELL = 30;
const GAP = 8;
const MOST_REPEATED = 2;
const MARGIN = 16;

function place(at, width) {
  const column = (width - GAP * (COLUMNS - 1)) / COLUMNS;
  return {
    left: at.x * (column + GAP),
    top: at.y * (CELL + GAP),
    width: at.w * column + (at.w - 1) * GAP,
    height: at.h * CELL + (at.h - 1) * GAP,
  };
}

/** Panels with their places: a repeated one once for each value, side by side, and below each other if they are many. */
function laidOut(panels, results) {
  let shift = 0;
  return panels.flatMap((panel) => {
    const at = { ...panel.gridPos, y: panel.gridPos.y + shift };
    const mine = results.filter((result) => result.panel === panel.id);
    const scopes = [...new Map(mine.map(({ scope }) => [JSON.stringify(scope), scope])).values()];
    if (!panel.repeat) {
      return [{ panel, at, scope: {}, answers: mine }];
    }
    const beside = Math.min(scopes.length, panel.maxPerRow ?? MOST_REPEATED) || 1;
    shift += (Math.ceil(scopes.length / beside) - 1) * at.h;
    return scopes.map((scope, index) => ({
      panel,
      scope,
      answers: mine.filter((result) => JSON.stringify(result.scope) === JSON.stringify(scope)),
      at: {
        ...at,
        w: COLUMNS / beside,
        x: (index % beside) * (COLUMNS / beside),
        y: at.y + Math.floor(index / beside) * at.h,
      },
    }));
  });
}

function replaced(text, values) {
  return text.replace(/\$\{?(\w+)\}?/g, (whole, name) => values[name] ?? whole);
}

function Heading({ panel, box }) {
  const theme = useTheme2();
  const style = { ...box, position: 'absolute', display: 'flex', alignItems: 'center', gap: 4 };
  return (
    <div style={{ ...style, ...theme.typography.h5, margin: 0 }}>
      <Icon name={panel.collapsed ? 'angle-right' : 'angle-down'} />
      {panel.title}
      {panel.collapsed && (
        <span style={{ color: theme.colors.text.secondary, ...theme.typography.bodySmall }}>
          ({panel.panels.length} panels)
        </span>
      )}
    </div>
  );
}

function Panel({ entry: { panel, scope, answers }, box, span }) {
  const Kind = KINDS[panel.type] ?? Nothing;
  return (
    <div style={{ position: 'absolute', ...box }}>
      <PanelChrome
        title={replaced(panel.title, scope)}
        description={panel.description}
        width={box.width}
        height={box.height}
      >
        {(width, height) => <Kind panel={panel} answers={answers} span={span} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

function Top({ dashboard, variables, span }) {
  const theme = useTheme2();
  const { list } = dashboard.templating;
  const box = {
    background: theme.colors.background.primary,
    border: `1px solid ${theme.colors.border.weak}`,
    borderRadius: theme.shape.radius.default,
    padding: '4px 8px',
  };
  const day = { timeZone: 'utc', format: 'YYYY-MM-DD HH:mm' };
  return (
    <div style={{ display: 'flex', flexWrap: 'wrap', gap: 8, alignItems: 'center', paddingBottom: 12 }}>
      <div style={{ ...theme.typography.h4, margin: 0, paddingRight: 8 }}>{dashboard.title}</div>
      {list
        .filter(({ name }) => name in variables)
        .map(({ name, label }) => (
          <div key={name} style={box}>
            <span style={{ color: theme.colors.text.secondary }}>{label}</span> {variables[name]}
          </div>
        ))}
      <div style={{ ...box, marginLeft: 'auto' }}>
        {dateTimeFormat(span.from * 1000, day)} to {dateTimeFormat(span.to * 1000, { ...day, format: 'HH:mm' })} UTC
      </div>
    </div>
  );
}

function Dashboard({ data: { dashboard, variables, results }, span, width }) {
  const entries = laidOut(dashboard.panels, results);
  const boxes = entries.map(({ at }) => place(at, width));
  const height = Math.max(...boxes.map((box) => box.top + box.height));
  return (
    <>
      <Top dashboard={dashboard} variables={variables} span={span} />
      <div style={{ position: 'relative', height }}>
        {entries.map((entry, index) =>
          entry.panel.type === 'row' ? (
            <Heading key={index} panel={entry.panel} box={boxes[index]} />
          ) : (
            <Panel key={index} entry={entry} box={boxes[index]} span={span} />
          )
        )}
      </div>
    </>
  );
}

async function main() {
  const query = new URLSearchParams(window.location.search);
  await initPluginTranslations('patio');
  const { dashboards, from, to, step } = await (await fetch('/data.json')).json();
  const theme = createTheme({ colors: { mode: query.get('theme') } });
  document.body.style.background = theme.colors.background.canvas;
  const root = document.getElementById('page');
  const width = root.clientWidth - 2 * MARGIN;
  const react = createRoot(root);
  const page = (content) => (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ padding: MARGIN }}>{content}</div>
    </ThemeContext.Provider>
  );
  react.render(page(null));
  // The styles name the font; widths of texts are measured with it, so it comes first.
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 14px Inter`)));
  react.render(
    page(
      <Dashboard data={dashboards[query.get('uid')]} span={{ from, to, step }} width={width} />
    )
  );
}

main().catch((error) => {
  document.body.dataset.failed = String(error?.stack ?? error);
});
