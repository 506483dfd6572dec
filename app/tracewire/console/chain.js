// The drawing: five stations in a row, a lane for each event, and in each lane a dot that travels from the engine to the
// client. Deltas that follow each other share a lane.

import { byId, element, unseen } from "/console/element.js";

export const LINKS = ["engine", "bridge", "emitter", "socket", "client"];
const DEEDS = ["emitted", "sequenced", "durable", "written", "acknowledged"];
const CLIENT = LINKS.length - 1;
const BOTTOM_PX = 48;

export class ChainDrawing {
  #lanes = [];
  #laneOf = []; // by seq - 1
  #cameTo = 0; // the newest seq that came to this page over its socket
  #rows = [];
  #settled = false;
  #counts;
  #list = byId("lanes");
  #window = byId("lanes-window");

  constructor() {
    this.#counts = LINKS.map(() => element("span", { class: "station-count" }, "0"));
    const stations = LINKS.map((link, at) =>
      element(
        "div",
        { class: "station", "data-link": link },
        element("span", { class: "station-name" }, link),
        element("span", { class: "station-deed" }, DEEDS[at]),
        this.#counts[at],
      ),
    );
    byId("stations").append(...stations);
  }

  clear() {
    this.#lanes = [];
    this.#laneOf = [];
    this.#cameTo = 0;
    this.#rows = [];
    this.#settled = false;
    this.#list.replaceChildren();
    this.#count();
  }

  /** An envelope came to this page. */
  came(envelope) {
    this.#cameTo = envelope.seq;
    this.describe(envelope);
  }

  /** An envelope is known, as from the log: its lane says what it is about. */
  describe(envelope) {
    for (let seq = envelope.first_seq ?? envelope.seq; seq <= envelope.seq; seq += 1) this.#lane(seq, envelope.type);
    const lane = this.#lane(envelope.seq, envelope.type);
    lane.about.textContent = aboutOf(envelope);
    this.#place(lane);
    this.#count();
  }

  /** What the server's ledger says of each event. */
  showLedger(report) {
    this.#rows = report.events;
    this.#settled = report.settled;
    for (const row of report.events) this.#lane(row.seq, row.type);
    for (const lane of this.#lanes) this.#place(lane);
    this.#count();
  }

  #lane(seq, type) {
    const known = this.#laneOf[seq - 1];
    if (known) return known;
    const newest = this.#lanes.at(-1);
    const lane = type === "agent_delta" && newest?.type === type ? newest : this.#append(seq, type);
    lane.last = seq;
    if (lane.last > lane.first) lane.seq.textContent = `${lane.first}–${lane.last}`;
    this.#laneOf[seq - 1] = lane;
    return lane;
  }

  #append(seq, type) {
    const name = element("span", { class: "lane-type" }, type);
    const about = element("span", { class: "lane-about" });
    const number = element("span", { class: "lane-seq" }, String(seq));
    const times = LINKS.map(() => element("span", { class: "stop-ms" }));
    const stops = LINKS.map((link, at) =>
      element("span", { class: "stop", "data-link": link }, unseen(`${link} `), times[at]),
    );
    const dot = element("span", { class: "dot", "aria-hidden": "true" });
    const label = element("p", { class: "lane-label" }, number, name, about);
    const track = element("div", { class: "track" }, ...stops, dot);
    const item = element("li", { class: "lane", "data-type": type, "data-at": "0" }, label, track);
    const follows = this.#atBottom();
    this.#list.append(item);
    if (follows) this.#window.scrollTop = this.#window.scrollHeight;
    void dot.offsetWidth; // drawn at the engine first: otherwise it would appear where it is going
    const lane = { type, first: seq, last: seq, item, seq: number, about, stops, times };
    this.#lanes.push(lane);
    return lane;
  }

  #place(lane) {
    const row = this.#rows[lane.last - 1];
    const came = lane.last <= this.#cameTo;
    const stamped = row ? LINKS.findLastIndex((link) => row[link] !== null) : 0;
    lane.item.dataset.at = String(came ? CLIENT : Math.max(0, stamped));
    // What is acknowledged after its run was settled is in the log, no longer in the ledger.
    lane.item.toggleAttribute("data-acked", row ? row.client !== null || (this.#settled && came) : false);
    if (!row) return;
    lane.item.toggleAttribute("data-missing", row.verdict === "missing");
    LINKS.forEach((link, at) => {
      const lost = row.verdict === "missing" && at === stamped + 1;
      lane.stops[at].toggleAttribute("data-missing", lost);
      lane.times[at].textContent = lost ? "missing" : timeAt(row, at) ?? (this.#settled && came ? "later" : "");
    });
  }

  #count() {
    LINKS.forEach((link, at) => {
      const stamped = this.#rows.filter((row) => row[link] !== null).length;
      this.#counts[at].textContent = String(Math.max(stamped, this.#cameTo));
    });
  }

  #atBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.#window;
    return scrollHeight - scrollTop - clientHeight < BOTTOM_PX;
  }
}

/** The time at a station: at the first since the run was asked for, then since the station before. */
function timeAt(row, at) {
  const here = row[LINKS[at]];
  if (here === null) return null;
  const before = at && row[LINKS[at - 1]];
  return at === 0 || before === null ? inMs(here) : `+${inMs(here - before)}`;
}

function inMs(ms) {
  if (ms >= 100_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return ms.toFixed(ms < 0.1 ? 3 : ms < 10 ? 2 : ms < 100 ? 1 : 0);
}

function aboutOf({ type, data }) {
  switch (type) {
    case "agent_thinking":
      return data.text;
    case "tool_executing":
      return data.tool_name;
    case "tool_completed":
      return `${data.tool_name} · ${data.status}`;
    case "input_required":
      return data.prompt;
    case "agent_error":
      return data.code;
    case "agent_cancelled":
      return data.reason ?? "";
    case "agent_started":
      return data.message;
    default:
      return "";
  }
}
