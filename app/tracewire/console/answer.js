// The answer as it is streamed, how the run ended where that was no answer, and the form for what an agent asks back.

import { byId, element } from "/console/element.js";
import { render } from "/console/markdown.js";

export class Answer {
  #text = "";
  #drawing = false;
  #reply = () => {};

  constructor() {
    byId("input-wanted").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#replyWith(event.submitter?.value ?? byId("input-value")?.value ?? "");
    });
  }

  clear() {
    this.#text = "";
    byId("answer").replaceChildren();
    byId("answer-panel").hidden = true;
    this.#wantNothing();
  }

  /** Take an envelope; `reply(inputId, value)` answers what the agent asks, where it still can. */
  take({ type, data }, reply = null) {
    switch (type) {
      case "agent_delta":
        this.#text += data.text;
        this.#drawSoon();
        break;
      case "input_required":
        if (reply) this.#want(data, reply);
        break;
      case "agent_completed":
        this.#wantNothing();
        this.#text = typeof data.output === "string" ? data.output : `\`\`\`\n${JSON.stringify(data.output, null, 2)}\n\`\`\``;
        this.#draw();
        break;
      case "agent_error":
        this.#end(`The run failed: ${data.message} (${data.code})`);
        break;
      case "agent_cancelled":
        this.#end(`The run was cancelled${data.reason ? `: ${data.reason}` : ""}.`);
        break;
      default:
        this.#wantNothing(); // the agent went on: what it asked is answered, perhaps in another tab
    }
  }

  /** Draw at most once a frame: every delta draws the whole answer anew. */
  #drawSoon() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      if (this.#drawing) this.#draw();
    });
  }

  #draw() {
    this.#drawing = false;
    byId("answer").replaceChildren(render(this.#text));
    byId("answer-panel").hidden = false;
  }

  #end(told) {
    this.#wantNothing();
    this.#draw();
    byId("answer").append(element("p", { class: "problem" }, told));
  }

  // What the agent asks back.

  #want({ input_id: inputId, kind, prompt }, reply) {
    const controls =
      kind === "approval"
        ? [
            element("button", { type: "submit", class: "main", value: "approve" }, "Approve"),
            element("button", { type: "submit", class: "quiet", value: "deny" }, "Deny"),
          ]
        : [
            element("input", { id: "input-value", "aria-labelledby": "input-prompt", required: true }),
            element("button", { type: "submit", class: "main" }, "Reply"),
          ];
    byId("input-prompt").textContent = prompt;
    byId("input-controls").replaceChildren(...controls);
    byId("input-wanted").hidden = false;
    byId("answer-panel").hidden = false;
    this.#reply = (value) => reply(inputId, kind === "approval" ? value === "approve" : value);
  }

  #replyWith(value) {
    this.#reply(value || byId("input-value")?.value);
    this.#wantNothing();
  }

  #wantNothing() {
    byId("input-wanted").hidden = true;
    this.#reply = () => {};
  }
}
