// How busy the server is: a few gauges of its Prometheus text.

const GAUGES = {
  running: "cachalot_requests_running",
  waiting: "cachalot_requests_waiting",
  blocksInUse: "cachalot_kv_blocks_in_use",
  blocksTotal: "cachalot_kv_blocks_total",
};
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})? (\S+)/;

// The values of samples by metric, summed over labels.
export function readMetrics(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const match = SAMPLE.exec(line);
    if (!match) continue;
    const value = Number(match[2]);
    if (Number.isFinite(value)) values.set(match[1], (values.get(match[1]) ?? 0) + value);
  }
  return values;
}

// The load, or null if the text has none of it.
export function readLoad(text) {
  const values = readMetrics(text);
  const load = {};
  for (const [name, metric] of Object.entries(GAUGES)) {
    if (!values.has(metric)) return null;
    load[name] = values.get(metric);
  }
  load.cacheUse = load.blocksTotal > 0 ? Math.min(1, Math.max(0, load.blocksInUse / load.blocksTotal)) : 0;
  return load;
}
