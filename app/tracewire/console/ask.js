// The question and the recording that it is about.

import { byId, element } from "/console/element.js";

const QUESTION = "what is missing in the sample recording?";
const QUESTION_OF_FILE = "what is missing in this recording?";
const ANALYST = "analyst";

export class AskForm {
  #api = null;
  #start;
  #recording = null; // { id, name }

  /** `start(input, agent)` starts a run; what it throws is shown. */
  constructor(start) {
    this.#start = start;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#ask();
    });
    byId("file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.#take(target.files[0]);
      target.value = "";
    });
    byId("file-remove").addEventListener("click", () => this.#remove());
    byId("agent").addEventListener("change", () => this.#agentChanged());
    this.#acceptDrops();
  }

  signIn(api) {
    this.#api = api;
    this.#remove();
  }

  /** The agents that can be asked, the default first. */
  offer(agents) {
    const chosen = byId("agent").value;
    byId("agent").replaceChildren(...agents.map((name) => element("option", { value: name }, name)));
    if (agents.includes(chosen)) byId("agent").value = chosen;
    byId("agent-choice").hidden = agents.length < 2;
    this.#agentChanged();
  }

  async #ask() {
    const question = byId("question").value.trim();
    const agent = byId("agent").value || ANALYST;
    if (!question) return;
    this.#problem(null);
    const recording = agent === ANALYST ? this.#recording : null;
    byId("ask-button").disabled = true;
    try {
      await this.#start(recording ? { question, recording_id: recording.id } : question, agent);
    } catch (error) {
      this.#problem(error.message);
    } finally {
      byId("ask-button").disabled = false;
    }
  }

  async #take(file) {
    this.#problem(null);
    byId("file-text").textContent = `Uploading ${file.name} …`;
    try {
      this.#recording = { id: await this.#api.upload(file), name: file.name };
    } catch (error) {
      this.#remove();
      this.#problem(error.message);
      return;
    }
    byId("file-text").textContent = `About ${file.name} (${inBytes(file.size)})`;
    byId("drop").dataset.filled = "";
    byId("file-remove").hidden = false;
    if (byId("question").value === QUESTION) byId("question").value = QUESTION_OF_FILE;
    byId("question").focus();
  }

  #remove() {
    this.#recording = null;
    byId("file-text").textContent = "Drop a HAR or JSONL recording here, or choose a file";
    delete byId("drop").dataset.filled;
    byId("file-remove").hidden = true;
    if (byId("question").value === QUESTION_OF_FILE) byId("question").value = QUESTION;
  }

  #problem(told) {
    byId("ask-problem").textContent = told ?? "";
    byId("ask-problem").hidden = told === null;
  }

  /** Recordings are for the analyst: other agents take the question as it stands. */
  #agentChanged() {
    const isAnalyst = (byId("agent").value || ANALYST) === ANALYST;
    byId("drop").hidden = !isAnalyst;
    byId("file-remove").hidden = !isAnalyst || !this.#recording;
  }

  /** A file may be dropped anywhere on the page: beside the marked place, the browser would leave the page for it. */
  #acceptDrops() {
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      byId("drop").dataset.over = "";
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) delete byId("drop").dataset.over;
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      delete byId("drop").dataset.over;
      if (event.dataTransfer?.files.length && this.#api) this.#take(event.dataTransfer.files[0]);
    });
  }
}

function inBytes(count) {
  if (count >= 1024 * 1024) return `${(count / 1024 / 1024).toFixed(1)} MiB`;
  return count >= 1024 ? `${Math.round(count / 1024)} KiB` : `${count} bytes`;
}
