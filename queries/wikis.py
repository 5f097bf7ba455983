"""MediaWiki's own words in the larger Wikipedias: namespaces, and the options of images.

The head of a dump names a wiki's namespaces once each; pages also use older names and those of variants,
which no dump lists. English names hold everywhere.
"""
# ruff: noqa: E501 - letters of some scripts are counted as two

import re
from functools import lru_cache
from typing import Final, NamedTuple


class Words(NamedTuple):
    """The words of a language, lower case, parted by |."""

    files: str
    """Of the namespaces of files and media."""
    categories: str
    templates: str
    options: str = ""
    """Image options without a value: thumb, left and their like
    (https://www.mediawiki.org/wiki/Help:Images)."""
    named: str = ""
    """Image options with a value, as alt in alt=..."""


_ENGLISH: Final = Words(
    "file|image|media",
    "category",
    "template|t",
    "thumb|thumbnail|frame|framed|enframed|frameless|border|left|right|center|centre|none|upright|baseline|middle|"
    "sub|super|sup|text-top|text-bottom|top|bottom",
    "alt|link|upright|page|class|lang|thumb|thumbnail|thumbtime|start|end|loop|muted|noicon|noplayer|disablecontrols",
)
_WORDS: Final = {
    "ar": Words(
        "ملف|صورة|وسائط|ميديا", "تصنيف", "قالب",
        "تصغير|مصغر|صورة مصغرة|إطار|بإطار|لاإطار|غير مؤطر|حدود|حد|يمين|يسار|مركز|وسط|بدون|بلا|معدول",
        "نص|بديل|وصلة|رابط|معدول|صفحة|لغة|تصغير|مصغر",
    ),
    "bg": Words(
        "файл|картинка|медия", "категория", "шаблон",
        "мини|ляво|дясно|център|центр|н|рамка|врамка|безрамка|без рамка|ръб|контур|горе|долу|среда",
        "алт|линк|мини|страница",
    ),
    "ca": Words(
        "fitxer|imatge|multimèdia", "categoria", "plantilla",
        "miniatura|esquerra|dreta|centre|cap|marc|sense marc|vora|dreta|redreçat", "alt|enllaç|pàgina|redreçat",
    ),
    "cs": Words(
        "soubor|média|obrázek", "kategorie", "šablona",
        "náhled|vlevo|vpravo|střed|uprostřed|žádné|rám|bezrámu|okraj|vzpřímeně|na střed|nahoře|dole",
        "alternativa|odkaz|strana|třída|jazyk|náhled|vzpřímeně",
    ),
    "da": Words(
        "fil|billede", "kategori", "skabelon", "miniature|mini|venstre|højre|centreret|ingen|ramme|rammeløs|kant",
        "alternativtekst|side|miniature",
    ),
    "de": Words(
        "datei|bild|medium|media", "kategorie", "vorlage",
        "mini|miniatur|links|rechts|zentriert|ohne|gerahmt|rahmen|rahmenlos|rand|hochkant|oben|mitte|unten|hoch|tief|"
        "grundlinie|text-oben|text-unten",
        "alternativtext|verweis|seite|klasse|sprache|hochkant|mini|miniatur",
    ),
    "el": Words(
        "αρχείο|εικόνα|μέσο", "κατηγορία", "πρότυπο",
        "μικρογραφία|μινιατούρα|αριστερά|δεξιά|κέντρο|καθόλου|με-πλαίσιο|πλαίσιο|χωρίς-πλαίσιο|σύνορο|κατακόρυφα",
        "εναλλ.|σύνδεσμος|σελίδα",
    ),
    "es": Words(
        "archivo|imagen|medio", "categoría", "plantilla",
        "miniaturadeimagen|miniatura|mini|izquierda|izda|izq|derecha|dcha|der|centro|centrado|centrada|centrar|"
        "ninguna|nada|no|ninguno|marco|enmarcado|enmarcada|borde|sinmarco|sin marco|sin embarcar|vertical|arriba|"
        "medio|abajo",
        "alt|enlace|vínculo|vinculo|página|pagina|clase|idioma|miniatura|miniaturadeimagen|vertical",
    ),
    "fa": Words(
        "پرونده|تصویر|مدیا|رسانه", "رده", "الگو",
        "بندانگشتی|انگشتدان|بندانگشتی|چپ|راست|وسط|هیچ|قاب|بی‌قاب|بیقاب|بی قاب|حاشیه|ایستاده|وسط‌چین",
        "جایگزین|پیوند|صفحه|ایستاده|رده|زبان|بندانگشتی",
    ),
    "fi": Words(
        "tiedosto|kuva", "luokka", "malline",
        "pienoiskuva|pienois|vasen|oikea|keski|keskitetty|tyhjä|kehys|kehystetty|kehyksetön|reunus|yläoikea",
        "linkki|sivu|pienoiskuva|pienois|yläoikea",
    ),
    "fr": Words(
        "fichier|image|média|media", "catégorie", "modèle",
        "vignette|gauche|droite|centré|centre|néant|neant|cadre|encadré|encadre|sans_cadre|sans cadre|bordure|redresse|"
        "ligne-de-base|base|indice|ind|exposant|exp|haut-texte|haut-txt|haut|milieu|bas-texte|bas-txt|bas",
        "alt|lien|page|classe|langue|vignette|redresse",
    ),
    "he": Words(
        "קובץ|תמונה|מדיה", "קטגוריה", "תבנית",
        "ממוזער|שמאל|ימין|מרכז|ללא|ללא מסגרת|לא ממוסגר|מסגרת|ממוסגר|גבולות|גבול|ימין למעלה",
        "טקסט|קישור|דף|ממוזער|שפה|מחלקה",
    ),
    "hi": Words("चित्र|फ़ाइल|मीडिया", "श्रेणी", "साँचा|साचा", "अंगूठाकार|अंगूठा|बाएँ|बायें|बाएं|दाएँ|दायें|केंद्र|केन्द्र|कोई_नहीं|फ्रेम|फ़्रेम|सीमा|खड़ी",
                "कड़ी|पाठ|पृष्ठ"),
    "hu": Words(
        "fájl|kép|média", "kategória", "sablon",
        "bélyegkép|bélyeg|miniatűr|balra|bal|jobbra|jobb|középre|közép|semmi|keretezett|keretes|keretben|keretnélküli|"
        "keret nélkül|keret|fennjobbra",
        "alternatív|link|oldal|bélyegkép|miniatűr",
    ),
    "id": Words(
        "berkas|gambar", "kategori", "templat", "jmpl|jempol|mini|miniatur|kiri|ka|kanan|ki|pus|pusat|tan|tanpa|bing|"
        "bingkai|nirbing|tanpabingkai|batas|bts|tegak|lurus",
        "al|pra|hal|halaman|jmpl|tegak",
    ),
    "it": Words(
        "file|immagine|media", "categoria", "template",
        "miniatura|min|sinistra|destra|centro|nessuno|riquadrato|incorniciato|senza_cornice|bordo|verticale|sopra|"
        "metà|sotto",
        "pagina|verticale|miniatura|min",
    ),
    "ja": Words(
        "ファイル|画像|メディア", "カテゴリ", "テンプレート",
        "サムネイル|左|右|中央|なし|無し|フレーム|フレーム付き|枠|フレームなし|フレーム無し|無枠|境界|ボーダー|右上|"
        "下付き|上付き|文上端|上端|中心|文下端|下端",
        "代替文|代替画像|画像代替文|リンク|ページ|サムネイル|右上|クラス|言語",
    ),
    "ka": Words("ფაილი|სურათი|მედია", "კატეგორია", "თარგი", "მინი|მინიატიურა|მარცხნივ|მარჯვნივ|ცენტრში|ცენტრი|არა|ჩარჩო|ჩარჩოთი|უჩარჩო",
                "ალტ|ბმული|გვერდი"),
    "ko": Words(
        "파일|그림|미디어", "분류", "틀",
        "섬네일|썸네일|왼쪽|오른쪽|가운데|중앙|없음|프레임|프레임없음|테두리|위오른쪽|밑줄|위|중간|아래",
        "대체글|링크|문서|섬네일|썸네일|위오른쪽|언어|클래스",
    ),
    "nl": Words(
        "bestand|afbeelding|media", "categorie", "sjabloon",
        "miniatuur|mini|links|rechts|gecentreerd|geen|omkaderd|kaderloos|rand|rechtop|grondlijn|boven|midden|beneden",
        "verwijzing|koppeling|pagina|klasse|taal|miniatuur|rechtop",
    ),
    "no": Words(
        "fil|bilde|bilete|medium", "kategori", "mal",
        "miniatyr|mini|venstre|høyre|høgre|sentrer|sentrum|ingen|ramme|ramma|rammeløs|kant|portrett",
        "lenke|lenkje|lenkja|side|språk|klasse|mini|miniatyr|portrett",
    ),
    "pl": Words(
        "plik|grafika|media", "kategoria", "szablon",
        "mały|miniatura|mini|lewo|prawo|centruj|centrowany|brak|ramka|bez ramki|ramka bezramkowa|bezramki|obramowanie|"
        "tło|góra|środek|dół",
        "alternatywa|strona|mały|miniatura|język|klasa|tytuł",
    ),
    "pt": Words(
        "ficheiro|arquivo|imagem|multimédia|media", "categoria", "predefinição",
        "miniaturadaimagem|miniatura|mini|esquerda|direita|centro|nenhum|conteudo|moldura|emoldurado|commoldura|"
        "comborda|borda|semmoldura|semborda|vertical|linhadebase|acima|meio|abaixo",
        "ligação|página|pagina|classe|idioma|língua|miniaturadaimagem|miniatura|vertical|superiordireito",
    ),
    "ro": Words(
        "fișier|fişier|imagine|media", "categorie", "format",
        "miniatura|mini|stânga|dreapta|centru|nu|cadru|fărăcadru|chenar|dreaptasus", "legătură|pagina|miniatura|mini",
    ),
    "ru": Words(
        "файл|изображение|медиа", "категория|к", "шаблон",
        "мини|миниатюра|слева|справа|центр|без|обрамить|безрамки|граница|сверхусправа|основание|под|над|текст-сверху|"
        "сверху|посередине|текст-снизу|снизу",
        "альт|ссылка|страница|класс|язык|мини|миниатюра|сверхусправа",
    ),
    "sr": Words(
        "датотека|слика|медиј|медији|datoteka|slika|medij", "категорија|kategorija", "шаблон|šablon",
        "мини|умањено|лево|л|десно|д|центар|ц|н|без|оквир|рам|безоквира|без_оквира|ивица|усправно|мiни|mini|umanjeno|"
        "levo|desno|centar|okvir|bez okvira|ivica|uspravno",
        "алт|веза|страница|усправно|мини|alt|veza|stranica|uspravno",
    ),
    "sv": Words(
        "fil|bild|media", "kategori", "mall",
        "miniatyr|mini|vänster|höger|centrerad|ingen|ram|inramad|ramlös|kantlinje|stående|baslinje|topp|mitten|botten",
        "länk|sida|klass|språk|miniatyr|mini|stående",
    ),
    "tr": Words(
        "dosya|resim|ortam|medya", "kategori", "şablon",
        "küçükresim|küçük|sol|sağ|orta|merkez|yok|çerçeveli|çerçeve|çerçevesiz|sınır|dikey",
        "bağlantı|sayfa|küçükresim|dikey",
    ),
    "uk": Words(
        "файл|зображення|медіа", "категорія", "шаблон",
        "міні|мініатюра|ліворуч|зліва|праворуч|справа|центр|без|обрамити|рамка|безрамки|межа|границя|зверхуправоруч|"
        "основа|під|над|зверху|посередині|знизу",
        "альт|посилання|сторінка|клас|мова|міні|мініатюра",
    ),
    "vi": Words(
        "tập tin|tập_tin|hình|phương tiện|phương_tiện", "thể loại|thể_loại", "bản mẫu|bản_mẫu|tiêu bản",
        "nhỏ|nhỏ|trái|phải|giữa|không|khung|không_khung|không khung|viền|đứng",
        "thế|liên_kết|liên kết|trang|nhỏ|đứng",
    ),
    "zh": Words(
        "文件|檔案|档案|图像|圖像|图片|圖片|媒体|媒體文件|媒體", "分类|分類", "模板|样板|樣板",
        "缩略图|缩略|縮圖|縮略圖|左|右|居中|置中|无|無|有框|链框|已框|无框|無框|边框|邊框|右上|垂直置中|顶端|頂端|"
        "中间|中間|底部",
        "替代|替代文本|替代文字|链接|連結|页数|頁|页|頁數|类|類|语言|語言|缩略图|縮圖|右上",
    ),
}  # fmt: skip
# Wikis that take the words of another.
_SAME: Final = {"nb": "no", "nn": "no", "sh": "sr", "be": "ru", "kk": "ru", "yue": "zh", "wuu": "zh", "gan": "zh",
                "nds": "de", "als": "de", "bar": "de", "arz": "ar", "gl": "pt"}  # fmt: skip
_UNITS: Final = r"(?:px|pх|рх|рx|пкс|пікс|п|pk|像素|ピクセル|픽셀|بك|بكسل|پیکسل|פיקסלים|პქ|पिक्सेल)(?:px)?"


@lru_cache(maxsize=64)
def namespaces(language: str) -> Words:
    """Return the names of a language's namespaces, the English ones among them."""
    own = _WORDS.get(_SAME.get(language, language), Words("", "", ""))
    return Words(*("|".join(filter(None, pair)) for pair in zip(_ENGLISH, own, strict=True)))


def names(words: str) -> frozenset[str]:
    """Return the words of a field of `Words`."""
    return frozenset(words.split("|"))


@lru_cache(maxsize=64)
def image_option(language: str) -> re.Pattern[str]:
    """Return the pattern of a part of an image link that is an option and no caption, whole and without
    spaces."""
    words = namespaces(language)
    alone, named = (
        "|".join(re.escape(word) for word in sorted(names(text))) for text in (words.options, words.named)
    )
    return re.compile(
        rf"(?:{alone}|(?:\d*[x×х])?\d+ ?{_UNITS}|(?:{named}) *=.*|(?:page|seite|страница) +\d+)?",
        re.DOTALL | re.IGNORECASE,
    )
