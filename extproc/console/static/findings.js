// What a team found: votes, judgements, what escalations hung on, and the answers themselves where they are kept.

import { h } from "/console/dom.js";
import { number, percent, seconds } from "/console/format.js";
import { chip, meter, section, table } from "/console/parts.js";

function named(record, at) {
  const call = record.calls?.[at];
  return call ? [h("span", { class: "mono quiet" }, `#${at}`), " ", call.agent ?? call.model] : `#${at}`;
}

function letter(at) {
  return String.fromCharCode(65 + (at % 26));
}

export function votesSection(record) {
  return record.votes?.length && section("Votes", record.votes.map((vote, at) => oneVote(record, vote, at)));
}

function oneVote(record, vote, at) {
  const groups = vote.groups.map((group, place) => {
    const said = group.ballots.map((ballot) => record.calls?.[ballot.call]?.answer).find((answer) => answer !== undefined);
    return h("li", { class: place === 0 ? "leads" : "" },
      h("div", { class: "answer" }, h("strong", {}, said ?? `answer ${letter(place)}`), place === 0 && chip("leads", "good"),
        h("span", { class: "figure" }, percent(group.posterior, 1))),
      meter(group.posterior, `probably right: ${percent(group.posterior, 1)}`, place === 0 ? "good" : ""),
      h("ul", { class: "ballots" }, group.ballots.map((ballot) =>
        h("li", {}, named(record, ballot.call), h("small", {}, `weight ${number(ballot.weight)}${ballot.votes ? "" : ", fills silence only"}`)))));
  });
  return h("div", { class: "vote" },
    h("p", { class: "quiet" }, record.votes.length > 1 ? `Vote ${at + 1}, ` : "", `at ${seconds(vote.at)}: the leader is right with `, h("strong", {}, percent(vote.confidence, 1))),
    h("ol", { class: "groups" }, groups,
      h("li", { class: "none" }, h("div", { class: "answer" }, h("span", {}, "none of these"), h("span", { class: "figure" }, percent(vote.none, 1))), meter(vote.none, `none is right: ${percent(vote.none, 1)}`, "calm"))),
    vote.silent.length > 0 && h("p", { class: "quiet" }, "Silent: ", vote.silent.map((call, place) => [place ? ", " : "", named(record, call)])));
}

const FINDINGS = {
  consensus: "They agree", contradictions: "They contradict each other", partial_coverage: "Only some cover",
  unique_insights: "Only one says", blind_spots: "Nobody says",
};

export function judgeSection(record) {
  return record.judgements?.length && section("Judge", record.judgements.map((judged) => {
    const rows = judged.answers.map(({ call, score }) => h("tr", {},
      h("th", { scope: "row" }, named(record, call), call === judged.winner && [" ", chip("best", "good")]),
      h("td", {}, score === undefined ? "–" : h("div", { class: "scored" }, meter(score / 10, `${number(score)} of 10`), h("span", { class: "figure" }, number(score))))));
    const found = Object.entries(judged.findings ?? {}).filter(([, said]) => Array.isArray(said) && said.length);
    return h("div", { class: "judged" },
      h("p", { class: "quiet" }, `At ${seconds(judged.at)}, in the order in which the answers stood before it`,
        judged.findings?.agreement !== undefined && `; agreement ${percent(judged.findings.agreement)}`),
      table("The judge's scores", ["Answer", "Score"], rows),
      found.map(([kind, said]) => h("div", { class: "finding" }, h("h3", {}, FINDINGS[kind] ?? kind), h("ul", {}, said.map((each) => h("li", {}, String(each)))))));
  }));
}

export function checksSection(record) {
  return record.checks?.length && section("Sure enough?", h("ul", { class: "checks" }, record.checks.map((check) => {
    const bar = h("div", { class: `check ${check.enough ? "good" : "fair"}`, role: "img", "aria-label": `${number(check.score)}, and ${number(check.threshold)} is enough` },
      h("div", { class: "fill", style: { width: `${clamp(check.score)}%` } }), h("div", { class: "limit", style: { left: `${clamp(check.threshold)}%` } }));
    return h("li", {},
      h("span", { class: "what" }, h("strong", {}, check.stage ?? "run"), h("small", {}, `${check.method}, at ${seconds(check.at)}`)),
      bar,
      h("span", { class: "figure" }, `${number(check.score)} ${check.enough ? "≥" : "<"} ${number(check.threshold)}`),
      chip(check.enough ? "enough" : "goes on", check.enough ? "good" : "fair"));
  })));
}

function clamp(part) {
  return (Math.max(0, Math.min(1, part)) * 100).toFixed(2);
}

export function answersSection(record) {
  const said = (record.calls ?? []).map((call, at) => ({ call, at })).filter(({ call }) => call.text);
  return said.length > 0 && section("Answers", said.map(({ call, at }) =>
    h("details", { "data-name": `answer-${at}` },
      h("summary", {}, named(record, at), h("small", {}, call.role), call.answer !== undefined && chip(call.answer)),
      h("pre", { class: "said", tabindex: "0" }, call.text))));
}
