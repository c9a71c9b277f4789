"""What is known of languages: their scripts, their commonest words, and letters that few others have."""

from collections.abc import Mapping

# First characters of stretches of one script, and what writes in it; None is nobody, or anybody.
STRETCHES = (
    (0x0000, None), (0x0041, "latin"), (0x005B, None), (0x0061, "latin"), (0x007B, None),
    (0x00C0, "latin"), (0x00D7, None), (0x00D8, "latin"), (0x00F7, None), (0x00F8, "latin"),
    (0x0250, None), (0x0370, "el"), (0x0400, "cyrillic"), (0x0530, "hy"), (0x0590, "he"),
    (0x0600, "arabic"), (0x0780, None), (0x0900, "devanagari"), (0x0980, "bn"), (0x0A00, "pa"),
    (0x0A80, "gu"), (0x0B00, None), (0x0B80, "ta"), (0x0C00, "te"), (0x0C80, "kn"),
    (0x0D00, "ml"), (0x0D80, "si"), (0x0E00, "th"), (0x0E80, "lo"), (0x0F00, None),
    (0x1000, "my"), (0x10A0, "ka"), (0x1100, "ko"), (0x1200, "am"), (0x1380, None),
    (0x1780, "km"), (0x1800, None), (0x1E00, "latin"), (0x1F00, "el"), (0x2000, None),
    (0x3040, "kana"), (0x30FB, None), (0x30FD, "kana"), (0x3100, None), (0x3400, "han"),
    (0xA000, None), (0xAC00, "ko"), (0xD7B0, None), (0xF900, "han"), (0xFB00, None),
    (0xFB50, "arabic"), (0xFE00, None), (0x20000, "han"), (0x40000, None),
)  # fmt: skip
WORDS: Mapping[str, Mapping[str, str]] = {
    "latin": {
        "en": "the of and to in is that it for you with this are be on what how i can as not have from please write "
        "me my do does which explain why was by an at or if your we he she they there has will would",
        "de": "der die das und ist nicht ich ein eine zu den mit von sie auf für wie was wir auch dass im dem des es "
        "bitte kann mir sich wird warum oder sind schreibe erkläre einen aus bei als nach über zum zur",
        "fr": "le la les des et est un une que je pour dans pas vous qui sur avec ce il au du comment ne plus sont "
        "quelle pourquoi moi écris peux cette aux être à ou mais nous votre donne explique où l qu",
        "es": "el la los las de que y en un una es por para con no se del cómo qué lo su al más como mi escribe puedes "
        "está cuál explica son porque pero sobre hay este esta me dame quiero sin entre",
        "pt": "o a os as de que e em um uma é para com não do da no na se por como mais dos das ao você seu uma "
        "escreva qual explique são mas meu sobre pode está isso porque eu ou quando me pelo pela",
        "it": "il lo la gli le di che e è un una per non con del della sono come in mi si più da al nel scrivi puoi "
        "cosa quale spiega perché questo questa ma anche i dei delle alla tra fra ho mio suo",
        "nl": "de het een en van is niet ik dat in op te zijn met voor die hoe wat aan er ook als maar bij om wordt "
        "kan je waarom schrijf uit naar deze heeft dit mijn leg welke door over of",
        "sv": "och att det är en ett som på jag inte för av med den till har om hur vad kan du de från eller skriv mig "
        "varför vi så men när förklara ska var detta vilken min",
        "da": "og at det er en et som på jeg ikke for af med den til har om hvordan hvad kan du de fra eller skriv mig "
        "hvorfor vi så men når forklar skal var dette hvilken min",
        "no": "og å det er en et som på jeg ikke for av med den til har om hvordan hva kan du de fra eller skriv meg "
        "hvorfor vi så men når forklar skal var dette hvilken min ei",
        "fi": "ja on ei se että hän oli ovat mutta kuin myös miten mikä kun tämä minä olla voi sen joka mitä kirjoita "
        "miksi selitä tai jos minun ole sinä kanssa",
        "pl": "i w nie na się z do to jest że jak co o od po za czy dla przez jak są być jestem napisz dlaczego proszę "
        "mi który wyjaśnij ale tak może tym jego lub jaki jakie mam",
        "cs": "a v je se na že s z do o i to jak co pro ale za si by jsem podle jsou jako jaký proč napiš prosím mi "
        "který vysvětli nebo není tak být má ve k",
        "ro": "și în de la cu pe nu un o este că pentru din ce mai sunt care cum a să se al lui prin scrie te rog mi "
        "explică sau dar fi acest această ai",
        "hu": "a az és hogy nem is egy van meg ez ki csak volt mint de el már mi írj hogyan miért kérlek vagy kell "
        "magyarázd mit nekem lesz ha be",
        "tr": "ve bir bu da de için ile ne çok nasıl mi olarak daha var gibi ben o olan kadar yaz lütfen bana neden "
        "mı mu mü nedir açıkla ama veya hangi değil şu en",
        "vi": "và là của có không được cho một các những với trong người tôi này để đã khi bạn như thế nào hãy viết "
        "tại sao gì cách về từ hoặc nếu",
        "id": "yang dan di ini itu untuk dengan tidak dari dalam adalah pada saya apa akan ke bagaimana bisa oleh atau "
        "juga anda tolong tulis mengapa jelaskan ada kami mereka seperti",
    },
    "cyrillic": {
        "ru": "и в не на что с как это по я он но к для из от за у мы так же вы все почему напиши объясни пожалуйста "
        "мне есть или если бы при о его этот какие какой можно работает",
        "uk": "і в не на що з як це по я він але до для із від за у ми так та ви все чому напиши поясни будь ласка "
        "мені є або якщо його який які можна цей щоб",
        "bg": "и в не на че с как това по аз той но към за от при ние така са ви всички защо напиши обясни моля ми "
        "се да е или ако му този които може ли",
        "sr": "и у не на да са како то по ја он али за из од ми тако су ви све зашто напиши објасни молим ми је или "
        "ако његов који може ли се",
    },
    "arabic": {
        "ar": "في من على إلى أن ما هذا هذه التي الذي كيف هل لا مع عن كان هو هي و أو لي اكتب لماذا اشرح يا ثم كل ماذا",
        "fa": "و در به از که این است را با برای آن چه چرا می یک خود تا کرد بر هم چگونه من بنویس لطفا توضیح کنید نیست",
        "ur": "اور میں کے کی ہے کا سے کو نے یہ پر ہیں کیا کہ نہیں ایک کیوں کیسے لکھیں مجھے براہ کرم ہو تھا لیے وضاحت",
    },
    "devanagari": {
        "hi": "है के में की और से का को यह कि नहीं पर क्या कैसे एक हैं मुझे लिखो लिखें क्यों मैं ने कृपया समझाइए लिए था हो",
        "mr": "आहे आणि या च्या ते मध्ये काय कसे एक नाही मला लिहा का हे मी आहेत तर साठी होते कृपया सांगा हा ही",
        "ne": "छ र को मा हो यो लाई के गर्न भने एक छन् मलाई लेख्नुहोस् किन म कृपया गर्ने पनि थियो हुन्छ यस",
    },
}  # fmt: skip

# Letters that only some of a script's languages have.
LETTERS: Mapping[str, Mapping[str, str]] = {
    "latin": {
        "de": "äöü", "fr": "œùëï", "es": "ñ¿¡", "pt": "ãõ", "pl": "łąęśźżń", "cs": "řůěšč", "ro": "țșăţş", "hu": "öüőű",
        "tr": "öüğış", "vi": "ơưđạảấầẩẫậắằẳẵặẹẻẽếềểễệịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ", "sv": "åäö", "da": "æøå", "no": "æøå",
        "fi": "äö",
    },
    "cyrillic": {"uk": "іїєґ", "sr": "јљњћђџ", "ru": "ыэё", "bg": ""},
    "arabic": {"ar": "ةىأإؤيك", "fa": "پچژگیک", "ur": "ٹڈڑےںہھپچگیک"},
    "devanagari": {},
}  # fmt: skip


LANGUAGES = frozenset(
    {language for languages in WORDS.values() for language in languages}
    | {name for _, name in STRETCHES if name is not None and len(name) == 2}
    | {"zh", "ja"}
)
"""ISO 639-1 codes of those that are told apart."""
