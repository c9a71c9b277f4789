// What `programs/told.py` is for Python.
export const url = process.argv[2];
export const QUESTION = "What is the capital of Canada?";
export const TOOL_QUESTION = `Use lookup. ${QUESTION}`;
export const RESULT = "It is Ottawa, says the tool.";
const parameters = { type: "object", properties: { q: { type: "string" } }, required: ["q"] };
export const TOOL = {
  type: "function", function: { name: "lookup", description: "Looks it up.", parameters },
};
export const SCHEMA = {
  type: "object",
  properties: { answer: { type: "string" } },
  required: ["answer"],
  additionalProperties: false,
};

export async function refused(asked) {
  try {
    await asked;
  } catch (error) {
    return String(error);
  }
  return "no error";
}

export async function tell(steps, leave) {
  const told = {};
  for (const model of ["looper/one", "looper/team"]) {
    told[model] = {};
    for (const [name, step] of Object.entries(steps)) told[model][name] = await step(model);
  }
  told["looper/slow"] = { leave: await leave("looper/slow") };
  process.stdout.write(JSON.stringify(told) + "\n", () => process.exit(0));
}
