// A page as a front-end developer would write it, on an origin of its own: the README's lines, with types.

import { type Envelope, Run, Tracewire } from "tracewire";

declare global {
  interface Window {
    ask: (url: string, token: string, question: string) => Promise<void>;
    states: (string | number | null)[][];
  }
}

window.states = [];

window.ask = async (url, token, question) => {
  const client = new Tracewire(url, { token: () => token });
  client.addEventListener("state", ({ detail }) => window.states.push([detail.state, detail.code]));
  const verdict = document.getElementById("verdict") as HTMLElement;
  try {
    await client.connect();
    const run: Run = await client.start(question, { agent: "analyst" });
    for await (const event of run) show(event);
    verdict.textContent = run.receiptAgrees ? "everything came" : "something is missing";
  } catch (error) {
    verdict.textContent = String(error);
  }
  client.close();
};

function show(event: Envelope): void {
  const item = document.createElement("li");
  item.textContent = event.type === "tool_completed" ? `${event.type} ${event.data.tool_name}` : event.type;
  document.getElementById("events")?.append(item);
}
