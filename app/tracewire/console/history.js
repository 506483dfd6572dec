// The user's runs, newest first.

import { byId, element } from "/console/element.js";

const CLOCK = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export class History {
  #api = null;
  #open;
  #next = null;
  #shownRunId = null;

  /** `open` is called with the server's view of the run that is chosen. */
  constructor(open) {
    this.#open = open;
    byId("more-runs").addEventListener("click", () => this.#more());
  }

  signIn(api) {
    this.#api = api;
    byId("runs").replaceChildren();
  }

  /** Which run is looked at now. */
  mark(runId) {
    this.#shownRunId = runId;
    for (const button of byId("runs").querySelectorAll("button")) this.#markOne(button);
  }

  /** Read the newest runs again. */
  async refresh() {
    const api = this.#api;
    const page = await api.runs().catch(() => null);
    if (!page || api !== this.#api) return;
    const focused = document.activeElement?.dataset?.runId;
    byId("runs").replaceChildren(...page.runs.map((view) => this.#item(view)));
    if (focused) byId("runs").querySelector(`button[data-run-id="${CSS.escape(focused)}"]`)?.focus();
    this.#page(page);
  }

  async #more() {
    const page = await this.#api.runs(this.#next).catch(() => null);
    if (!page) return;
    byId("runs").append(...page.runs.map((view) => this.#item(view)));
    this.#page(page);
  }

  #page({ next }) {
    this.#next = next;
    byId("more-runs").hidden = !next;
    byId("no-runs").hidden = byId("runs").childElementCount > 0;
  }

  #item(view) {
    const button = element(
      "button",
      { type: "button", class: "run", "data-run-id": view.run_id, "data-state": view.state, onclick: () => this.#open(view) },
      element("span", { class: "run-agent" }, view.agent),
      element("span", { class: "run-state" }, view.outcome ?? view.state),
      element("span", { class: "run-when" }, CLOCK.format(view.started_unix_ns / 1e6)),
      element("span", { class: "run-events" }, eventsOf(view)),
    );
    this.#markOne(button);
    return element("li", {}, button);
  }

  #markOne(button) {
    if (button.dataset.runId === this.#shownRunId) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function eventsOf({ last_seq: last, acked_seq: acked, ended_unix_ns: ended }) {
  if (ended === null) return "still open";
  return `${last} ${last === 1 ? "event" : "events"}, ${acked >= last ? "all" : acked} acknowledged`;
}
