// Draws a dashboard with Grafana's own components (window.grafana) from answers that were asked for before (answers.py).
// No Grafana is behind it: what its server and its panel plugins do around these components is done here, as little as
// possible. window.picture is what page.py hands over.
const {
  BigValue, FieldColorModeId, FieldType, GlobalStyles, PanelChrome, ThemeContext, TimeSeries,
  createDataFrame, createElement, createRoot, createTheme, dateTime, getDisplayProcessor, getValueFormats,
} = window.grafana;
const { about, answers, dashboard, from, to, stepMs, width } = window.picture;
// Grafana's own measures of its grid, in pixels.
const COLUMNS = 24, ROW = 30, GAP = 8;
const timeZone = 'utc';
const theme = createTheme({ colors: { mode: 'light' }, typography: { fontFamily: "'Open Sans', sans-serif" } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
const units = new Set(getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value)));

// One frame for each line, as the data source of Prometheus makes them.
function framesOf(panel) {
  const { defaults } = panel.fieldConfig;
  if (!units.has(defaults.unit)) throw new Error(`${panel.title}: Grafana knows no unit ${defaults.unit}`);
  return answers[panel.id].map(({ refId, name, times, values }, seriesIndex) => {
    const config = { color: { mode: FieldColorModeId.PaletteClassic }, ...defaults, displayNameFromDS: name };
    const frame = createDataFrame({
      refId,
      fields: [
        { name: 'Time', type: FieldType.time, config: { interval: stepMs }, values: times },
        { name, type: FieldType.number, config, values },
      ],
    });
    const [time, field] = frame.fields;
    const numbers = values.filter((value) => value !== null);
    const [min, max] = [Math.min(...numbers), Math.max(...numbers)];
    field.state = { seriesIndex, displayName: name, range: { min, max, delta: max - min } };
    time.display = getDisplayProcessor({ field: time, theme, timeZone });
    field.display = getDisplayProcessor({ field, theme, timeZone });
    return frame;
  });
}

function Stat({ panel, frames, ...size }) {
  const [x, y] = frames[0].fields;
  const last = y.values.findLast((value) => value !== null);
  const { colorMode, graphMode, textMode } = panel.options;
  const value = y.display(last), sparkline = { x, y, timeRange };
  return createElement(BigValue, {
    ...size, theme, value, sparkline, colorMode, graphMode, textMode, justifyMode: 'auto', count: 1,
  });
}

function Lines({ panel, frames, ...size }) {
  const legend = { calcs: [], ...panel.options.legend };
  return createElement(TimeSeries, {
    ...size, frames, legend, timeRange, timeZone, theme, structureRev: 1, options: {},
  });
}

const DRAWN = { stat: Stat, timeseries: Lines };

function Panel({ panel, ...size }) {
  const drawn = DRAWN[panel.type];
  if (!drawn) throw new Error(`${panel.title}: a panel of the type ${panel.type} is not drawn here`);
  const frames = framesOf(panel);
  return createElement(PanelChrome, { title: panel.title, description: panel.description, ...size }, (w, h) =>
    frames.length
      ? createElement(drawn, { panel, frames, width: w, height: h })
      : createElement('div', { className: 'no-data' }, 'No data'));
}

function Place({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (width + GAP) / COLUMNS;
  const size = { width: w * column - GAP, height: h * (ROW + GAP) - GAP };
  const style = { position: 'absolute', left: x * column, top: y * (ROW + GAP), ...size };
  const inside = panel.type === 'row' ? createElement('h2', {}, panel.title) : createElement(Panel, { panel, ...size });
  return createElement('section', { style, 'data-panel': panel.id }, inside);
}

function Dashboard() {
  const bottom = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
  const style = { position: 'relative', width, height: bottom * (ROW + GAP) - GAP };
  return createElement(
    ThemeContext.Provider, { value: theme },
    createElement(GlobalStyles),
    createElement('header', {}, createElement('h1', {}, dashboard.title), createElement('span', {}, about)),
    createElement('main', { style }, dashboard.panels.map((panel) => createElement(Place, { key: panel.id, panel }))),
  );
}

createRoot(document.getElementById('dashboard')).render(createElement(Dashboard));
